"""UDP punch: exchange candidates over the signal channel, then prove identities right through the opening filters."""

import functools
from collections.abc import Mapping

from warpfleet.core.combo import Phase, RouteType, Transport
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import ADDRESS_FAMILIES
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.contract import AttemptFactory, Strategy
from warpfleet.plugins.node_ports import NodePorts
from warpfleet.plugins.registry import register
from warpfleet.plugins.standing import Standing
from warpfleet.plugins.udp_punch import at_once, ordinary
from warpfleet.plugins.udp_punch.exchange import Exchange, Turns
from warpfleet.plugins.udp_punch.messages import Answer, Offer


@register(phase=Phase.SPRAY)
class UdpPunch(Strategy):
    """One side of a UDP punch."""

    name = "udp_punch"
    transport = Transport.UDP
    requirement = Requirement.PUNCHABLE
    routes = (RouteType.NIC, RouteType.EXT)
    proto_messages = (Offer, Answer)

    def __init__(self, context: AttemptContext, turns: Turns, standing: Mapping[int, Standing]) -> None:
        super().__init__(context)
        self._exchange = Exchange(context, turns, standing)

    @classmethod
    async def setup(cls, node: NodePorts) -> AttemptFactory:
        standing = {af: Standing(node, af, node.advertise_standing) for af in ADDRESS_FAMILIES}
        for kept in standing.values():
            node.expect(kept.looked)
            node.spawn(kept.keep())
            node.on_close(kept.close)
        return functools.partial(cls, turns=Turns(), standing=standing)

    async def run(self) -> Won:
        offer = self.context.opening
        if not isinstance(offer, Offer):
            # A pipe that is to move here may be another process's, where a socket that serves all peers cannot go.
            won = None if self.context.for_move else await at_once.Initiation(self._exchange).run()
            return won or await ordinary.punch(self._exchange, None)
        if offer.greeting:
            met = await at_once.respond(self._exchange, offer, offer.greeting)
            if not isinstance(met, Offer):
                return met
            offer = met
        return await ordinary.punch(self._exchange, offer)
