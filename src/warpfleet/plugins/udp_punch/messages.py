"""Messages of the UDP punch."""

from typing import ClassVar

from pydantic import Field

from warpfleet.plugins.contract import AttemptMessage, EndpointText
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX


class Offer(AttemptMessage):
    """The initiator's candidate endpoints, as `ip:port`."""

    kind: ClassVar[str] = "udp_punch.offer"
    opens: ClassVar[bool] = True

    candidates: tuple[EndpointText, ...] = Field(max_length=CANDIDATES_MAX)


class Answer(AttemptMessage):
    """The responder's candidate endpoints, as `ip:port`."""

    kind: ClassVar[str] = "udp_punch.answer"

    candidates: tuple[EndpointText, ...] = Field(max_length=CANDIDATES_MAX)
