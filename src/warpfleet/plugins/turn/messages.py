"""Messages of the relay technique."""

from typing import ClassVar

from pydantic import Field

from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.attempt_messages import AttemptMessage, EndpointText


class RelayOffer(AttemptMessage):
    """The initiator's relayed transport address, as `ip:port`, and its HELLO (see `net.handshake`), in hexadecimal, so
    that it costs no round trip on the path.

    It has no address where it goes ahead of the one that has, to a responder that needs a relay of its own.
    """

    kind: ClassVar[str] = "turn.offer"
    opens: ClassVar[bool] = True

    relayed: EndpointText | None
    hello: str = Field(pattern=rf"^[0-9a-f]{{{2 * FRAME_BYTES}}}$")


class RelayAnswer(AttemptMessage):
    """The endpoint that the responder sends from, as `ip:port`: permit its address, and send to it.

    Its port is a guess unless it is a relayed endpoint; such a one may follow where the first led nowhere.
    """

    kind: ClassVar[str] = "turn.answer"

    endpoint: EndpointText
