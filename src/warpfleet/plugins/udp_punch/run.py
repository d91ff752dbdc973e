"""UDP punch: exchange candidates over the signal channel, then prove identities right through the opening filters."""

from collections.abc import Sequence

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.net.interfaces import DatagramSocket, Pipe
from warpfleet.plugins.contract import AttemptFailed, Strategy
from warpfleet.plugins.registry import register
from warpfleet.plugins.udp_punch.messages import CANDIDATES_MAX, Answer, Offer
from warpfleet.plugins.udp_punch.plan import candidates

_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use


@register(phase=Phase.SPRAY)
class UdpPunch(Strategy):
    """One side of a UDP punch."""

    name = "udp_punch"
    transport = Transport.UDP
    requirement = Requirement.PUNCHABLE
    routes = (RouteType.NIC, RouteType.EXT)
    proto_messages = (Offer, Answer)

    async def run(self) -> Pipe:
        context = self.context
        socket = await context.network.open_udp(context.combo.af)
        try:
            own = await self._candidates(socket)
            theirs = await self._exchange(own)
        except BaseException:
            socket.close()
            raise
        return await context.prove_datagram(socket, theirs)

    async def _candidates(self, socket: DatagramSocket) -> list[Endpoint]:
        context = self.context
        reflexive = None
        if context.combo.route is RouteType.EXT:
            try:
                reflexive = await context.network.external_endpoint(socket, timeout_s=_STUN_S)
            except TimeoutError as error:
                raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error
        interfaces = context.network.interfaces() if context.combo.route is RouteType.NIC else ()
        own = candidates(context.combo.route, socket.local.port, interfaces, reflexive, context.combo.af)
        return own[:CANDIDATES_MAX]

    async def _exchange(self, own: Sequence[Endpoint]) -> list[Endpoint]:
        context = self.context
        texts = [str(endpoint) for endpoint in own]
        if context.side is Side.INITIATOR:
            context.send(Offer, candidates=texts)
            theirs = (await context.inbox.message(Answer)).candidates
        else:
            assert isinstance(context.opening, Offer)
            context.send(Answer, candidates=texts)
            theirs = context.opening.candidates
        return [Endpoint.parse(text) for text in theirs]
