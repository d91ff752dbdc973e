"""Messages of the UDP punch."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.attempt_messages import AttemptMessage, EndpointText
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX

_DATAGRAM_MAX_BYTES = 1500  # what a path carries in one piece
_FLIGHT_MAX = 2  # a client's first flight is one datagram


class Greeting(BaseModel):
    """What lets the responder prove itself at once, and begin its end of the tunnel: the initiator's HELLO, and the
    first flight of its tunnel."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    hello: bytes = Field(min_length=FRAME_BYTES, max_length=FRAME_BYTES)
    flight: tuple[Annotated[bytes, Field(max_length=_DATAGRAM_MAX_BYTES)], ...] = Field(max_length=_FLIGHT_MAX)


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
