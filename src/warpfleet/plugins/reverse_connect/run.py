"""Reverse connect: the initiator asks over the signal channel, the responder dials, our listeners answer."""

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.core.targets import DIALLING_ALLOWANCE
from warpfleet.plugins.attempt_context import BegunStream, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.head_start import HeadStart
from warpfleet.plugins.registry import register
from warpfleet.plugins.reverse_connect.messages import DialMe
from warpfleet.plugins.streams import accept, dial, sure, targets


@register(phase=Phase.DIRECT)
class ReverseConnect(Strategy):
    """One side of a reverse connect."""

    name = "reverse_connect"
    transport = Transport.TCP
    requirement = Requirement.SELF_REACHABLE
    routes = (RouteType.NIC, RouteType.EXT)
    allowance = DIALLING_ALLOWANCE
    proto_messages = (DialMe,)

    async def run(self) -> Won:
        if self.context.side is Side.INITIATOR:
            return await self._ask()
        return await self._dial()

    async def _ask(self) -> Won:
        context = self.context
        assert context.theirs is not None
        own = targets(context.theirs, context.mine, context.combo.af, context.combo.route)
        if not own:
            raise AttemptFailed(Reason.NOT_LISTENING, "we have no address that the peer could dial")
        texts = [str(endpoint) for endpoint in own]
        if not sure(own, context.theirs, context.mine, context.combo.route):
            context.send(DialMe, endpoints=texts)  # a stream may well never come: nothing is prepared for it
            return await accept(context)
        head_start = HeadStart(context)
        context.send(DialMe, endpoints=texts, opening=head_start.greet())
        return await accept(context, head_start)

    async def _dial(self) -> Won:
        opening = self.context.opening
        assert isinstance(opening, DialMe)
        endpoints = [Endpoint.parse(text) for text in opening.endpoints]
        if opening.opening is None:
            return await dial(self.context, endpoints)
        head_start = HeadStart(self.context)
        head_start.answer(opening.opening)

        async def begun(_endpoint: Endpoint, _took_s: float) -> BegunStream | None:
            return head_start.begun()

        return await dial(self.context, endpoints, begun)
