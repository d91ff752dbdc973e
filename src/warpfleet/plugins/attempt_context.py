"""What one attempt is handed, and how it turns a socket into what it wins."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from warpfleet.core.combo import Combo, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.peer import PeerView
from warpfleet.net.handed_over import HandedOver
from warpfleet.net.handshake import Handshake, ProofFailed, Wishes
from warpfleet.net.interfaces import ByteStream, DatagramSocket, Network, Pipe
from warpfleet.net.plain import PlainPipe
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.proving import Claim, prove_datagram
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.quic_engine import QuicEngine
from warpfleet.net.stream_datagrams import StreamDatagrams
from warpfleet.net.stream_proof import prove_stream
from warpfleet.net.tls import TlsPipe, Tunnel
from warpfleet.plugins.attempt_messages import AttemptMessage, M
from warpfleet.plugins.inbox import Inbox
from warpfleet.plugins.node_ports import NodePorts
from warpfleet.plugins.room import Room

Won = Pipe | ProvedPath | HandedOver
"""What an attempt wins: a pipe, which may be in another process, or a path for the one that its connection has."""

HandOver = Callable[[ByteStream, Handshake, bytes], Awaitable[HandedOver | None]]
"""Has the pipe of a stream made by the program that it is for, of whose tunnel some bytes have come; None where no
program is there to do so."""


class Begun(NamedTuple):
    """A proof and a tunnel that signals have begun. `flight` goes ahead of HELLO, or behind PROOF; `hello` is the
    initiator's, at the responder's end. `resend_s` is when to greet again, where that is not the usual time. Where it
    `waits`, the pipe is not used before the peer has agreed to it."""

    handshake: Handshake
    tunnel: QuicEngine
    flight: Sequence[bytes] = ()
    hello: bytes | None = None
    resend_s: float | None = None
    waits: bool = False

    def opener(self) -> bytes:
        """The first frame of this end: PROOF where the initiator has greeted it. A greeting that is forged is none."""
        with suppress(ProofFailed):
            if self.hello and (proof := self.handshake.receive(self.hello).reply):
                return proof
        return self.handshake.opener()


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
    `for_move` is whether what the initiator seeks is a path for a relayed pipe, which may be in another process.
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
    for_move: bool = False


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
        first: Sequence[tuple[bytes, Endpoint]] = (),
        relayed: bool = False,
        begun: Begun | None = None,
        later: Coroutine[Any, Any, Sequence[Endpoint]] | None = None,
        on_proved: Callable[[], None] = lambda: None,
    ) -> Won:
        """Turn a UDP socket into a pipe, or a path for one, to whichever candidate proves itself; the socket is closed
        where that fails. `first` are the peer's datagrams that were already read, and their sources, `begun` what
        signals have begun, and `later` has more candidates. The initiator hears by `on_proved` that it is there."""
        handshake, tunnel, flight, hello, resend_s, waits = begun or Begun(self.handshake(), self.tunnel())
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
                tunnel=None if waits else tunnel,
                flight=flight,
                later=later,
            )
            self.peer_wishes = handshake.peer_wishes
            socket = self.release(socket)
            if agreed.moves and hello:
                raise ProofFailed(f"{self.peer.name} moves a pipe to a path that it has greeted for one of its own")
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
