"""Get address: asks the peer itself for its record, where the broker has none or only an expired one."""

from warpfleet.core.combo import RouteType, Transport
from warpfleet.core.pairing import Requirement
from warpfleet.plugins.address_messages import GetAddr, ReturnAddr
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.registry import register


@register()
class GetAddress(Strategy):
    """The asking side."""

    name = "get_addr"
    transport = Transport.TCP
    requirement = Requirement.SIGNAL
    routes = (RouteType.EXT,)
    proto_messages = (ReturnAddr,)
    carries_pipe = False

    async def run(self) -> None:
        self.context.send(GetAddr)
        answer = await self.context.inbox.message(ReturnAddr)
        await self.context.node.learn_record(self.context.peer.name, answer.signed_record)
