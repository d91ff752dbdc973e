"""What the ways of a UDP punch share: its messages, its sockets, and what is known of both ends."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from warpfleet.core.combo import Reason, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering
from warpfleet.core.pairing import Kind, kind_of
from warpfleet.net.interfaces import DatagramSocket
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.greeting import Greeting
from warpfleet.plugins.standing import Borrowed, Standing
from warpfleet.plugins.udp_punch.messages import Answer, Offer
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX, HIDDEN_PORT

_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use


@dataclass(frozen=True, slots=True)
class Turns:
    """What keeps the attempts of one node out of each other's predictions. Whoever answers waits for no peer, so two
    nodes never wait for each other."""

    leading: asyncio.Lock = field(default_factory=asyncio.Lock)
    answering: asyncio.Lock = field(default_factory=asyncio.Lock)


class Exchange:
    """One side of an attempt. `ours` and `theirs` are the two NATs as hole punching sees them; the responder does not
    know the initiator's."""

    def __init__(self, context: AttemptContext, turns: Turns, standing: Mapping[int, Standing]) -> None:
        self.context = context
        self.turns = turns
        self.standing = standing[context.combo.af]
        self.ours = kind_of(context.mine.behaviour(context.combo.af))
        self.theirs = kind_of(context.theirs.behaviour(context.combo.af)) if context.theirs else Kind.UNKNOWN
        self.external = context.combo.route is RouteType.EXT

    @property
    def predicts(self) -> bool:
        """Whether the peer can only know our port beforehand: it sees it where it is known to be an easy one."""
        return self.external and self.ours is Kind.SEQUENTIAL and self.theirs is not Kind.EASY

    @property
    def delta(self) -> int:
        """The step of our allocator."""
        return self.context.mine.behaviour(self.context.combo.af).port_delta or 1

    def borrow(self) -> Borrowed | None:
        """Our standing socket, where we have one."""
        return self.standing.lend(self.context.attempt_id) if self.external else None

    def offer(self, own: Iterable[Endpoint], greeting: Greeting | None = None) -> None:
        """The initiator tells where it is."""
        self.context.send(Offer, candidates=_texts(own), greeting=greeting)

    def tell(self, own: Iterable[Endpoint]) -> None:
        """The responder tells where it is."""
        self.context.send(Answer, candidates=_texts(own))

    async def answer(self) -> list[Endpoint]:
        """Where the responder is."""
        return endpoints((await self.context.inbox.message(Answer)).candidates)

    async def reflexive(self, socket: DatagramSocket) -> Endpoint:
        """Where a STUN server sees a socket."""
        try:
            return await self.context.network.external_endpoint(socket, timeout_s=_STUN_S)
        except TimeoutError as error:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error

    def greet(self, sockets: Sequence[DatagramSocket], targets: Sequence[Endpoint]) -> None:
        """HELLO or KNOCK, from each to each."""
        opener = self.context.handshake().opener()
        for socket in sockets:
            for target in targets:
                socket.send_to(opener, target)

    def open_filter(self, socket: DatagramSocket, address: str) -> None:
        """Send something to an address where our filter asks for no more than that: the first frame from there shows
        its port."""
        if self.context.mine.behaviour(self.context.combo.af).filtering is Filtering.ADF:
            self.greet([socket], [Endpoint(address, HIDDEN_PORT)])


def endpoints(texts: Iterable[str]) -> list[Endpoint]:
    """The candidates of a message."""
    return [Endpoint.parse(text) for text in texts]


def _texts(own: Iterable[Endpoint]) -> list[str]:
    return [str(endpoint) for endpoint in own][:CANDIDATES_MAX]
