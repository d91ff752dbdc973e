"""UDP punch: exchange candidates over the signal channel, then prove identities right through the opening filters."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering
from warpfleet.core.pairing import Kind, Requirement, kind_of
from warpfleet.core.peer import ADDRESS_FAMILIES
from warpfleet.net.interfaces import DatagramSocket
from warpfleet.plugins.contract import AttemptContext, AttemptFactory, AttemptFailed, Begun, NodePorts, Strategy, Won
from warpfleet.plugins.registry import register
from warpfleet.plugins.udp_punch.messages import Answer, Greeting, Offer
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX, RUN_SOCKETS, ahead, behind, candidates
from warpfleet.plugins.udp_punch.standing import Standing
from warpfleet.plugins.volley import Volley, close_all, open_sockets

_DISCARD_PORT = 9  # RFC 863: nobody answers
_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use
# Other attempts wait for their turn no longer. Who answers later may find their mappings where ours were to be.
_TURN_S = 2.0


@dataclass(frozen=True, slots=True)
class _Turns:
    """What keeps the attempts of one node out of each other's predictions. Whoever answers waits for no peer, so two
    nodes never wait for each other."""

    leading: asyncio.Lock = field(default_factory=asyncio.Lock)
    answering: asyncio.Lock = field(default_factory=asyncio.Lock)


@register(phase=Phase.SPRAY)
class UdpPunch(Strategy):
    """One side of a UDP punch."""

    name = "udp_punch"
    transport = Transport.UDP
    requirement = Requirement.PUNCHABLE
    routes = (RouteType.NIC, RouteType.EXT)
    proto_messages = (Offer, Answer)

    def __init__(self, context: AttemptContext, turns: _Turns, standing: Mapping[int, Standing]) -> None:
        super().__init__(context)
        self._turns = turns
        self._standing = standing

    @classmethod
    async def setup(cls, node: NodePorts) -> AttemptFactory:
        standing = {af: Standing(node, af) for af in ADDRESS_FAMILIES}
        for kept in standing.values():
            node.expect(kept.looked)
            node.spawn(kept.keep())
            node.on_close(kept.close)
        return functools.partial(cls, turns=_Turns(), standing=standing)

    async def run(self) -> Won:
        if self._predicts():
            return await (self._lead() if self.context.side is Side.INITIATOR else self._follow())
        theirs = self._their_standing()
        borrowed = self._standing[self.context.combo.af].lend(self.context.attempt_id, theirs) if theirs else None
        if theirs is None or borrowed is None:
            return await self._punch()
        return await self._punch_at_once(self.context.guard(borrowed.socket), borrowed.endpoint, theirs)

    def _their_standing(self) -> Endpoint | None:
        """Where the peer always hears: by its record, or by its offer."""
        context = self.context
        if context.combo.route is not RouteType.EXT:
            return None
        if context.theirs:
            return context.theirs.standing_endpoint(context.combo.af)
        assert isinstance(context.opening, Offer)
        greets = context.opening.greeting and context.opening.candidates
        return Endpoint.parse(context.opening.candidates[0]) if greets else None

    async def _punch_at_once(self, socket: DatagramSocket, own: Endpoint, theirs: Endpoint) -> Won:
        """From our standing socket to theirs: no endpoint is asked for, and the offer greets. A peer whose own one
        speaks with ours already answers from another socket, and is met there."""
        context, opening = self.context, self.context.opening
        try:
            begun = self._greeted(own, opening) if isinstance(opening, Offer) else self._greet_by_signal(own)
        except BaseException:
            socket.close()
            raise
        if isinstance(opening, Offer) and opening.greeting:
            return await context.prove_datagram(socket, [theirs], first=(opening.greeting.hello, theirs), begun=begun)
        return await context.prove_datagram(socket, [theirs], begun=begun, later=self._answer())

    def _greet_by_signal(self, own: Endpoint) -> Begun:
        handshake, tunnel = self.context.handshake(), self.context.tunnel()
        flight = tunnel.connect(asyncio.get_running_loop().time(), by_signal=True)
        self._offer([own], Greeting(hello=handshake.opener(), flight=tuple(flight)))
        return Begun(handshake, tunnel)

    def _greeted(self, own: Endpoint, offer: Offer) -> Begun:
        tunnel, now_s = self.context.tunnel(), asyncio.get_running_loop().time()
        for data in offer.greeting.flight if offer.greeting else ():
            tunnel.receive(data, now_s)
        self.context.send(Answer, candidates=_texts([own]))
        return Begun(self.context.handshake(), tunnel, tunnel.outgoing(now_s))

    def _predicts(self) -> bool:
        """Whether the peer can only know our port beforehand: it sees it where it is known to be an easy one."""
        context = self.context
        mine = kind_of(context.mine.behaviour(context.combo.af))
        theirs = kind_of(context.theirs.behaviour(context.combo.af)) if context.theirs else Kind.UNKNOWN
        return context.combo.route is RouteType.EXT and mine is Kind.SEQUENTIAL and theirs is not Kind.EASY

    async def _punch(self) -> Won:
        """From one socket, whose endpoint is known."""
        context = self.context
        socket = await context.network.open_udp(context.combo.af)
        try:
            own = await self._candidates(socket)
            self._let_in_the_first_frame(socket)
            theirs = await self._exchange(own)
        except BaseException:
            socket.close()
            raise
        return await context.prove_datagram(socket, theirs)

    def _let_in_the_first_frame(self, socket: DatagramSocket) -> None:
        """Send something to the peer's address where our filter asks for no more than that: its first frame, which
        shows its port, mostly comes before its answer."""
        context = self.context
        af, theirs = context.combo.af, context.theirs
        if context.combo.route is not RouteType.EXT or theirs is None or af not in theirs.external:
            return
        hidden = kind_of(theirs.behaviour(af)) in (Kind.SEQUENTIAL, Kind.RANDOM)
        if hidden and context.mine.behaviour(af).filtering is Filtering.ADF:
            self._greet([socket], [Endpoint(theirs.external[af], _DISCARD_PORT)])

    async def _lead(self) -> Won:
        """Say where a run of mappings will be, and open it once it is known towards whom: to the likeliest candidate,
        since each further one would take a run of its own."""
        context = self.context
        sockets = await open_sockets(context.network, context.combo.af, RUN_SOCKETS)
        try:
            async with self._turns.leading:
                self._offer(ahead(await self._reflexive(sockets[0]), self._delta))
                answered = await self._greet_in_time(sockets)
            if not answered:
                self._greet(sockets, (await self._answer())[:1])
        except BaseException:
            close_all(sockets)
            raise
        return await Volley(context, sockets).prove()  # the mappings are there, and the peer sends again

    async def _greet_in_time(self, sockets: Sequence[DatagramSocket]) -> bool:
        """Open the run where the answer comes while it is our turn; whether it did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN_S):
                self._greet(sockets, (await self._answer())[:1])
                return True
        return False

    async def _follow(self) -> Won:
        """Open a mapping towards the peer, and say where it is: right before the one that STUN shows."""
        context = self.context
        assert isinstance(context.opening, Offer)
        likeliest = [Endpoint.parse(text) for text in context.opening.candidates[:1]]
        socket = await context.network.open_udp(context.combo.af)
        try:
            async with self._turns.answering:
                self._greet([socket], likeliest)
                latest = await self._reflexive(socket)
            await self._exchange(behind(latest, self._delta))
        except BaseException:
            socket.close()
            raise
        return await context.prove_datagram(socket, likeliest)

    @property
    def _delta(self) -> int:
        return self.context.mine.behaviour(self.context.combo.af).port_delta or 1

    def _greet(self, sockets: Sequence[DatagramSocket], targets: Sequence[Endpoint]) -> None:
        opener = self.context.handshake().opener()
        for socket in sockets:
            for target in targets:
                socket.send_to(opener, target)

    async def _candidates(self, socket: DatagramSocket) -> list[Endpoint]:
        context = self.context
        reflexive = await self._reflexive(socket) if context.combo.route is RouteType.EXT else None
        interfaces = context.network.interfaces() if context.combo.route is RouteType.NIC else ()
        return candidates(context.combo.route, socket.local.port, interfaces, reflexive, context.combo.af)

    async def _reflexive(self, socket: DatagramSocket) -> Endpoint:
        try:
            return await self.context.network.external_endpoint(socket, timeout_s=_STUN_S)
        except TimeoutError as error:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error

    async def _exchange(self, own: Sequence[Endpoint]) -> list[Endpoint]:
        if self.context.side is Side.INITIATOR:
            self._offer(own)
            return await self._answer()
        opening = self.context.opening
        assert isinstance(opening, Offer)
        self.context.send(Answer, candidates=_texts(own))
        return _endpoints(opening.candidates)

    def _offer(self, own: Sequence[Endpoint], greeting: Greeting | None = None) -> None:
        self.context.send(Offer, candidates=_texts(own), greeting=greeting)

    async def _answer(self) -> list[Endpoint]:
        return _endpoints((await self.context.inbox.message(Answer)).candidates)


def _texts(endpoints: Sequence[Endpoint]) -> list[str]:
    return [str(endpoint) for endpoint in endpoints[:CANDIDATES_MAX]]


def _endpoints(texts: Sequence[str]) -> list[Endpoint]:
    return [Endpoint.parse(text) for text in texts]
