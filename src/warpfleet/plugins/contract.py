"""What a plugin is, and what it is handed: its ports, as interfaces."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from pydantic import AfterValidator, Field

from warpfleet.core.combo import Combo, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView
from warpfleet.core.targets import USUAL_ALLOWANCE, Allowance
from warpfleet.net.handed_over import HandedOver
from warpfleet.net.handshake import Handshake, Wishes
from warpfleet.net.interfaces import ByteStream, Count, DatagramSocket, Network, NodeNetwork, Pipe, uncounted
from warpfleet.net.plain import PlainPipe
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.proving import Claim, prove_datagram
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.quic_engine import QuicEngine
from warpfleet.net.stream_datagrams import StreamDatagrams
from warpfleet.net.stream_proof import prove_stream
from warpfleet.net.tls import TlsPipe, Tunnel
from warpfleet.plugins.room import Room
from warpfleet.signal.messages import ProtoMessage

TIME_US_BOUND = 2**53
"""The year 2255: what a peer sends must fit the columns of the telemetry, and timers."""
# The usual and the longest budget of the policies that ship: a peer may not hold an attempt open for ever.
_TIMEOUT_S, _TIMEOUT_MAX_S = 15.0, 180.0
_RTT_MAX_MS = 10_000.0  # beyond any path that a person would wait for
_INBOX_MAX_ITEMS = 64  # an attempt exchanges a handful of messages; more is a peer that misbehaves


class AttemptFailed(WarpfleetError):
    """The attempt cannot succeed, for a reason of the closed vocabulary."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        super().__init__(message or reason.value)
        self.reason = reason


AttemptId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class AttemptMessage(ProtoMessage):
    """Base of the messages between the two sides of one attempt. The envelope around it names the connection.

    The first message of a kind that `opens` makes the responder's side of the attempt, which has as long as the
    initiator's, `timeout_s` seconds.
    """

    opens: ClassVar[bool] = False

    attempt_id: AttemptId
    af: Literal[4, 6]
    route: RouteType
    started_at_us: int = Field(ge=0, lt=TIME_US_BOUND)
    timeout_s: float = Field(default=_TIMEOUT_S, gt=0, le=_TIMEOUT_MAX_S)
    rtt_ms: float | None = Field(default=None, ge=0, le=_RTT_MAX_MS)


class Abandon(AttemptMessage):
    """This side has given the attempt up, so that the other need not wait for its timeout."""

    kind: ClassVar[str] = "attempt.abandon"

    plugin: str


def _checked_endpoint(text: str) -> str:
    if not 0 < Endpoint.parse(text).port < 65536:
        raise ValueError("the port must be 1 to 65535")
    return text


EndpointText = Annotated[str, AfterValidator(_checked_endpoint)]
"""A peer's `ip:port`, checked when its message is read."""

M = TypeVar("M", bound=AttemptMessage)

Won = Pipe | ProvedPath | HandedOver
"""What an attempt wins: a pipe, which may be in another process, or a path for the one that its connection has."""

HandOver = Callable[[ByteStream, Handshake, bytes], Awaitable[HandedOver | None]]
"""Has the pipe of a stream made by the program that it is for, of whose tunnel some bytes have come; None where no
program is there to do so."""


@dataclass(frozen=True, slots=True)
class InboundStream:
    """A TCP stream that a trusted peer opened to one of our listeners, with the frame that it sent first."""

    stream: ByteStream
    first_frame: bytes

    def discard(self) -> None:
        """Close it: nobody waits for it."""
        self.stream.close()


class Inbox:
    """What arrives for one attempt: messages of the peer's side, and streams that it opened, each told to `count`."""

    def __init__(self, count: Count = uncounted) -> None:
        self._count = count
        self._messages: asyncio.Queue[AttemptMessage | AttemptFailed] = asyncio.Queue(_INBOX_MAX_ITEMS)
        self._streams: asyncio.Queue[InboundStream] = asyncio.Queue(_INBOX_MAX_ITEMS)
        self._closed = False

    def put_message(self, message: AttemptMessage) -> None:
        """Queue a message; one too many is dropped."""
        if not self._messages.full():
            self._messages.put_nowait(message)

    def put_failure(self, reason: Reason) -> None:
        """Let the next wait for a message fail."""
        if not self._messages.full():
            self._messages.put_nowait(AttemptFailed(reason))

    def put_stream(self, inbound: InboundStream) -> None:
        """Queue an inbound stream; one too many, or too late, is closed."""
        if self._closed or self._streams.full():
            inbound.stream.close()
        else:
            self._count(inbound.stream)
            self._streams.put_nowait(inbound)

    async def message(self, kind: type[M]) -> M:
        """The next message of a kind; others before it are dropped. AttemptFailed where ours could not be delivered."""
        while True:
            item = await self._messages.get()
            if isinstance(item, AttemptFailed):
                raise item
            if isinstance(item, kind):
                return item

    async def stream(self) -> InboundStream:
        """The next inbound stream."""
        return await self._streams.get()

    def close(self) -> None:
        """Close the streams that nobody took, and those that are still to come."""
        self._closed = True
        while not self._streams.empty():
            self._streams.get_nowait().stream.close()


class NodePorts(Protocol):
    """One node, as its plugins see it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def identity(self) -> Identity:
        """Its keys."""

    @property
    def network(self) -> NodeNetwork:
        """The network at its vantage, unguarded: for listeners. Attempts have a guarded one of their own."""

    @property
    def view(self) -> PeerView:
        """What its own address record says."""

    @property
    def listen_ports(self) -> Sequence[int]:
        """The TCP ports that it is configured to listen on; 0 is any free one."""

    def now_us(self) -> int:
        """The wall clock in microseconds since 1970 (UTC), corrected by what NTP servers said."""

    def peer_by_key(self, key: bytes) -> PublicIdentity | None:
        """The trusted peer with this 32-byte Ed25519 key."""

    def advertise(self, listener: Endpoint) -> None:
        """Add a listener to the node's address record. During `setup`."""

    def advertise_mapping(self, listener: Endpoint, external: Endpoint | None) -> None:
        """Say in the node's address record where a port mapping makes a listener reachable from outside; None: no more.
        At any time."""

    def advertise_standing(self, af: AddressFamily, port: int | None) -> None:
        """Say in the node's address record at which UDP port of its external address a socket always hears; None: no
        more. At any time."""

    async def viewed(self) -> None:
        """Return once `view` has been learnt, for the first time or anew."""

    def expect(self, news: Callable[[], Awaitable[None]]) -> None:
        """What returns once the address record has something more to say: whoever plans for a whole fleet waits for it,
        a few seconds at most. During `setup`."""

    def spawn(self, work: Awaitable[None]) -> None:
        """Run a background task for as long as the node is open."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call this when the node closes."""

    def inbound(self, inbound: InboundStream) -> None:
        """Hand an inbound stream to the attempt that its first frame names, whichever plugin runs it."""

    async def own_record(self) -> bytes:
        """The node's current address record, signed and encoded."""

    async def learn_record(self, peer: str, signed: bytes) -> None:
        """Take a signed address record of a peer. AttemptFailed where it does not verify or is not the newest."""


class Begun(NamedTuple):
    """A proof and a tunnel that signals have begun. `flight` goes ahead of HELLO, or behind PROOF; `hello` is the
    initiator's, at the responder's end. `resend_s` is when to greet again, where that is not the usual time."""

    handshake: Handshake
    tunnel: QuicEngine
    flight: Sequence[bytes] = ()
    hello: bytes | None = None
    resend_s: float | None = None


class BegunStream(NamedTuple):
    """The same for a stream; `opening` is what this end says first on one that it dials, where it is not its opener."""

    handshake: Handshake
    tunnel: Tunnel
    opening: bytes = b""


@dataclass(kw_only=True)
class AttemptSpec:
    """Which attempt it is. Ids are 32 hexadecimal digits; `started_at_us` is when the connection began by its
    initiator's clock, corrected by NTP, in microseconds since 1970 (UTC).

    `theirs` is the peer's address record (None on the responder's side), `opening` the message that opened the
    responder's side (None on the initiator's, and where a stream opened it). `rtt_ms` is the round trip that earlier
    pipes of this plugin had between the two exits, by what the initiator knows. `wishes` are ours of the pipe.
    """

    attempt_id: str
    connection_id: str
    started_at_us: int
    side: Side
    combo: Combo
    timeout_s: float
    theirs: PeerView | None = None
    opening: AttemptMessage | None = None
    rtt_ms: float | None = None
    wishes: Wishes = Wishes.NONE


@dataclass(kw_only=True)
class AttemptContext(AttemptSpec):
    """Everything that one attempt may use. `network` keeps it within its targets and its budget.

    `nonce` is 16 bytes for the proof of identity; `claim` asks for leave to take a proved pipe (see `net.proving`);
    `post` sends a message to the peer's side; `guard` puts a socket that the node has open anyway under the budget,
    `release` lifts it from the socket of a pipe that has won; `room` is to be taken before hundreds of sockets are
    opened. `hand_over` is given where a program in another process may be there for the pipe. `peer_wishes` are the
    peer's of the pipe, once there is one.
    """

    node: NodePorts
    peer: PublicIdentity
    network: Network
    rng: random.Random
    nonce: bytes
    claim: Claim
    post: Callable[[AttemptMessage], None]
    guard: Callable[[DatagramSocket], DatagramSocket]
    release: Callable[[DatagramSocket], DatagramSocket]
    inbox: Inbox = field(default_factory=Inbox)
    room: Room = field(default_factory=Room)
    hand_over: HandOver | None = None
    peer_wishes: Wishes = Wishes.NONE
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def mine(self) -> PeerView:
        """Our own address record."""
        return self.node.view

    def send(self, kind: type[M], **fields: object) -> None:
        """Send a message of this kind to the peer's side of the attempt; it is resent until acknowledged."""
        head = {
            "attempt_id": self.attempt_id,
            "af": self.combo.af,
            "route": self.combo.route,
            "started_at_us": self.started_at_us,
            "timeout_s": self.timeout_s,
            "rtt_ms": self.rtt_ms,
        }
        self.post(kind.model_validate(head | fields))

    def handshake(self) -> Handshake:
        """The proof of identity for this attempt."""
        return Handshake(
            side=self.side,
            identity=self.node.identity,
            peer=self.peer,
            connection_id=self.connection_id,
            attempt_id=self.attempt_id,
            combo=self.combo,
            started_at_us=self.started_at_us,
            nonce=self.nonce,
            wishes=self.wishes,
        )

    def tunnel(self) -> QuicEngine:
        """This side's end of the tunnel of a datagram pipe."""
        return QuicEngine(self.side, self.node.identity, self.attempt_id)

    @property
    def begins_tunnel(self) -> bool:
        """Whether the tunnel of a stream begins with the proof: not where none is wanted, or where a program in another
        process may make it."""
        return Wishes.PLAIN not in self.wishes and self.hand_over is None

    async def prove_stream(
        self, stream: ByteStream, first_frame: bytes | None = None, *, begun: BegunStream | None = None
    ) -> Won:
        """Turn a stream into a pipe, or a path for one; the stream is closed where that fails. `begun` is what signals
        have begun."""
        handshake, tunnel, opening = begun or BegunStream(self.handshake(), Tunnel(self.side, self.node.identity))
        async with self._one_claim_at_a_time(stream) as claim:
            moves = await prove_stream(
                stream, handshake, claim, tunnel, first=first_frame, opening=opening, begins=self.begins_tunnel
            )
            self.peer_wishes = handshake.peer_wishes
            if moves:
                way = DatagramPath(StreamDatagrams(stream), stream.remote, transport=Transport.TCP)
                return self._proved_path(moves, way)
            if handed_over := await self._handed_over(stream, handshake, tunnel):
                return handed_over
            if handshake.plain:
                return PlainPipe(stream, self.peer.name)
            return await TlsPipe.open(stream, tunnel, handshake, agreed=self.side is Side.RESPONDER)

    async def _handed_over(self, stream: ByteStream, handshake: Handshake, tunnel: Tunnel) -> HandedOver | None:
        if self.hand_over is None or Wishes.MEASURED in self.peer_wishes:
            return None
        early = tunnel.take_back()
        handed_over = await self.hand_over(stream, handshake, early)
        tunnel.feed(early)
        return handed_over

    async def prove_datagram(
        self,
        socket: DatagramSocket,
        candidates: Sequence[Endpoint],
        *,
        first: tuple[bytes, Endpoint] | None = None,
        relayed: bool = False,
        begun: Begun | None = None,
        later: Coroutine[Any, Any, Sequence[Endpoint]] | None = None,
        on_proved: Callable[[], None] = lambda: None,
    ) -> Won:
        """Turn a UDP socket into a pipe, or a path for one, to whichever candidate proves itself; the socket is closed
        where that fails. `first` is the peer's datagram and its source where it was already read, `begun` what signals
        have begun, and `later` has more candidates. The initiator hears by `on_proved` that the peer is there."""
        handshake, tunnel, flight, hello, resend_s = begun or Begun(self.handshake(), self.tunnel())
        of_family = [candidate for candidate in candidates if candidate.af == self.combo.af]
        async with self._one_claim_at_a_time(socket, on_proved) as claim:
            agreed = await prove_datagram(
                socket,
                handshake,
                claim,
                of_family,
                first=first,
                hello=hello,
                rtt_ms=self.rtt_ms,
                resend_s=resend_s,
                tunnel=tunnel,
                flight=flight,
                later=later,
            )
            self.peer_wishes = handshake.peer_wishes
            socket = self.release(socket)
            if agreed.moves:
                return self._proved_path(agreed.moves, DatagramPath(socket, agreed.remote, answer=agreed.answer))
            path = DatagramPath(socket, agreed.remote, relayed)
            return await QuicPipe.open(
                tunnel, path, handshake, agreed.early, unanswered=agreed.unanswered, resend_s=agreed.resend_s
            )

    def _proved_path(self, plugin: str, way: DatagramPath) -> ProvedPath:
        return ProvedPath(plugin, self.connection_id, self.peer.name, self.side, way)

    @asynccontextmanager
    async def _one_claim_at_a_time(
        self, socket: ByteStream | DatagramSocket, on_proved: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Claim]:
        """Of several sockets that an attempt proves at once, only one may be taken; if that fails, the next may."""
        holds_turn = False

        async def claim() -> str | None:
            nonlocal holds_turn
            on_proved()
            await self._turn.acquire()
            holds_turn = True
            return await self.claim()

        try:
            yield claim
        except BaseException:
            socket.close()
            if holds_turn:
                self._turn.release()
            raise


class Strategy(ABC):
    """One traversal technique; an instance is one side of one attempt.

    A plugin states what it is by these class attributes, is registered with `@register(phase=...)`, and runs.
    `result` resolves to what it won, or to None where the attempt did not win.
    """

    name: ClassVar[str]
    transport: ClassVar[Transport]
    requirement: ClassVar[Requirement]
    routes: ClassVar[tuple[RouteType, ...]]
    families: ClassVar[tuple[AddressFamily, ...]] = ADDRESS_FAMILIES
    proto_messages: ClassVar[tuple[type[AttemptMessage], ...]] = ()
    reaches: ClassVar[tuple[RouteType, ...]] = ()
    """Route types whose addresses an attempt may send to, where they are more than that of its combo."""
    allowance: ClassVar[Allowance] = USUAL_ALLOWANCE
    """What a node's attempts with one peer may send together."""
    accepts_streams: ClassVar[bool] = False
    """Whether an inbound stream may make the responder's side of an attempt."""
    carries_pipe: ClassVar[bool] = True
    """Whether an attempt yields a pipe; an auxiliary plugin may not."""

    def __init__(self, context: AttemptContext) -> None:
        self.context = context
        self.result: asyncio.Future[Won | None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def setup(cls, _node: NodePorts) -> "AttemptFactory | None":
        """Prepare one node; returns what makes an attempt, or None to opt out. MissingError ends the start."""
        return cls

    @abstractmethod
    async def run(self) -> Won | None:
        """Run this side of the attempt until its pipe is agreed on. Anything raised fails the attempt."""


AttemptFactory = Callable[[AttemptContext], Strategy]
