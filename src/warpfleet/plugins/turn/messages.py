"""Messages of the relay technique."""

from typing import ClassVar

from warpfleet.plugins.contract import AttemptMessage, EndpointText


class RelayOffer(AttemptMessage):
    """The initiator's relayed transport address, as `ip:port`."""

    kind: ClassVar[str] = "turn.offer"
    opens: ClassVar[bool] = True

    relayed: EndpointText


class RelayAnswer(AttemptMessage):
    """The endpoint that the responder sends from, as `ip:port`: permit its address, and send to it.

    Its port is a guess unless it is a relayed endpoint.
    """

    kind: ClassVar[str] = "turn.answer"

    endpoint: EndpointText
