"""Messages of the relay technique."""

from typing import ClassVar

from pydantic import Field

from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.attempt_messages import AttemptMessage, EndpointText


class RelayOffer(AttemptMessage):
    """The endpoint that the initiator sends from, as `ip:port`, whether that is a relayed one, and its HELLO (see
    `net.handshake`), in hexadecimal, so that it costs no round trip on the path.

    Where it is not, the responder is to have one, and the port is a guess.
    """

    kind: ClassVar[str] = "turn.offer"
    opens: ClassVar[bool] = True

    endpoint: EndpointText
    relayed: bool
    hello: str = Field(pattern=rf"^[0-9a-f]{{{2 * FRAME_BYTES}}}$")


class RelayAnswer(AttemptMessage):
    """The endpoint that the responder sends from, as `ip:port`: permit its address, and send to it.

    Its port is a guess unless it is a relayed endpoint.
    """

    kind: ClassVar[str] = "turn.answer"

    endpoint: EndpointText
