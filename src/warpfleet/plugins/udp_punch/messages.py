"""Messages of the UDP punch."""

from typing import ClassVar

from pydantic import Field

from warpfleet.plugins.attempt_messages import AttemptMessage, EndpointText
from warpfleet.plugins.greeting import Greeting
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX


class Offer(AttemptMessage):
    """The initiator's candidate endpoints, as `ip:port`. With a greeting, it is there already: at its standing socket,
    at one of the predicted ports, or, with `HIDDEN_PORT`, at one that its first frame will show."""

    kind: ClassVar[str] = "udp_punch.offer"
    opens: ClassVar[bool] = True

    candidates: tuple[EndpointText, ...] = Field(max_length=CANDIDATES_MAX)
    greeting: Greeting | None = None


class Answer(AttemptMessage):
    """The responder's candidate endpoints, as `ip:port`; none where it cannot know them, and has spoken already."""

    kind: ClassVar[str] = "udp_punch.answer"

    candidates: tuple[EndpointText, ...] = Field(max_length=CANDIDATES_MAX)
