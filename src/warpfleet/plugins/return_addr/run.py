"""Return address: the other side of get address."""

from warpfleet.core.combo import RouteType, Transport
from warpfleet.core.pairing import Requirement
from warpfleet.plugins.address_messages import GetAddr, ReturnAddr
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.registry import register


@register()
class ReturnAddress(Strategy):
    """The answering side. It is never started, only opened by a question."""

    name = "return_addr"
    transport = Transport.TCP
    requirement = Requirement.SIGNAL
    routes = (RouteType.EXT,)
    proto_messages = (GetAddr,)
    carries_pipe = False

    async def run(self) -> None:
        self.context.send(ReturnAddr, signed_record=await self.context.node.own_record())
