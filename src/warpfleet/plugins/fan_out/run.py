"""Fan out: dials every address of the peer at once, whatever its route type; the first that proves itself wins."""

from dataclasses import replace

from warpfleet.core.combo import RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import same_network
from warpfleet.core.targets import DIALLING_ALLOWANCE
from warpfleet.plugins.attempt_context import Won
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.registry import register
from warpfleet.plugins.streams import accept, dial, targets


@register()
class FanOut(Strategy):
    """One side of a fan-out. The attempt's route type becomes that of the address which won."""

    name = "fan_out"
    transport = Transport.TCP
    requirement = Requirement.PEER_LISTENING
    routes = (RouteType.EXT,)
    allowance = DIALLING_ALLOWANCE
    reaches = tuple(RouteType)
    accepts_streams = True

    async def run(self) -> Won:
        if self.context.side is Side.RESPONDER:
            return await accept(self.context)
        candidates = self._candidates()
        pipe = await dial(self.context, list(candidates))
        self.context.combo = replace(self.context.combo, route=candidates[pipe.path.remote])
        return pipe

    def _candidates(self) -> dict[Endpoint, RouteType]:
        mine, theirs, af = self.context.mine, self.context.theirs, self.context.combo.af
        assert theirs is not None
        routes = [RouteType.EXT]
        if same_network(mine, theirs, af):
            routes.append(RouteType.NIC)
        if mine.machine == theirs.machine:
            routes.append(RouteType.LOOPBACK)
        return {endpoint: route for route in routes for endpoint in targets(mine, theirs, af, route)}
