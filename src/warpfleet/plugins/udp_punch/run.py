"""UDP punch: exchange candidates over the signal channel, then prove identities right through the opening filters."""

import asyncio
from collections.abc import Sequence

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Kind, Requirement, kind_of
from warpfleet.net.interfaces import DatagramSocket, Pipe
from warpfleet.plugins.contract import AttemptFailed, Strategy
from warpfleet.plugins.registry import register
from warpfleet.plugins.udp_punch.messages import Answer, Offer
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX, RUN_SOCKETS, candidates, predicted
from warpfleet.plugins.volley import close_all, open_sockets, prove_first_heard

_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use
_RESEND_S = 0.5  # of a run: the peer sends to it as well, and sooner


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
        sockets = await open_sockets(context.network, context.combo.af, RUN_SOCKETS if self._predicts else 1)
        try:
            own = await self._candidates(sockets[0])
            theirs = await self._exchange(own)
        except BaseException:
            close_all(sockets)
            raise
        if self._predicts:
            # Of a run that meets a run only one candidate can be hit: the first, unless others were very busy.
            return await prove_first_heard(context, sockets, self._open_run(sockets, theirs[:1]))
        return await context.prove_datagram(sockets[0], theirs)

    @property
    def _predicts(self) -> bool:
        """Whether the peer can only know our port beforehand. An easy one sees it, as far as we know of the peer."""
        context = self.context
        if context.combo.route is not RouteType.EXT or kind_of(context.mine.behaviour(context.combo.af)) is not Kind.SEQUENTIAL:
            return False
        return context.theirs is None or kind_of(context.theirs.behaviour(context.combo.af)) is not Kind.EASY

    async def _open_run(self, sockets: Sequence[DatagramSocket], targets: Sequence[Endpoint]) -> None:
        """Open a mapping for each socket, in their order, and keep the peer's filter open."""
        opener = self.context.handshake().opener()
        while True:
            for socket in sockets:
                for target in targets:
                    socket.send_to(opener, target)
            await asyncio.sleep(_RESEND_S)

    async def _candidates(self, socket: DatagramSocket) -> list[Endpoint]:
        context = self.context
        reflexive = None
        if context.combo.route is RouteType.EXT:
            try:
                reflexive = await context.network.external_endpoint(socket, timeout_s=_STUN_S)
            except TimeoutError as error:
                raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error
            if self._predicts:
                return predicted(reflexive, context.mine.behaviour(context.combo.af).port_delta or 1)
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
