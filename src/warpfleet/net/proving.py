"""Drives the handshake over streams and datagrams until both ends agree on the pipe."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.net.handshake import FRAME_BYTES, Event, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ByteStream, ConnectionLost, DatagramSocket

# The first resends come fast, since a punch often needs two packets to open both filters; then they give way.
_RESEND_FIRST_S = 0.05
_RESEND_FACTOR = 1.5
_RESEND_MAX_S = 0.5
_RESEND_RTTS = 1.5  # of a known round trip: an answer that a busy host delays costs no packet

_EARLY_MAX = 16  # datagrams of a first flight: a few

Claim = Callable[[], Awaitable[str | None]]
"""Asks whoever names the winner for leave to take this pipe; raises where another was named. Returns the plugin whose
pipe is to move here, None where this is to become a pipe of its own."""


FirstFlight = Callable[[], Sequence[bytes]]
"""What the initiator sends right behind TAKE: the beginning of the tunnel, which so costs no round trip of its own."""


def nothing() -> Sequence[bytes]:
    """For whoever has no first flight."""
    return ()


class Agreed(NamedTuple):
    """Where the peer is, and what came from there for the tunnel before both had agreed. `moves` is the plugin whose
    pipe moves here, if one does; then the responder answers late frames of the initiator with `answer`."""

    remote: Endpoint
    early: list[bytes]
    moves: str | None = None
    answer: bytes = b""


class PeerClosed(ConnectionLost):
    """The peer said that this pipe is not needed."""


async def prove_stream(
    stream: ByteStream,
    handshake: Handshake,
    claim: Claim,
    *,
    first: bytes | None = None,
    first_flight: FirstFlight = nothing,
) -> str | None:
    """Prove both ends on a stream and agree that it is the winner.

    `first` is the peer's frame where it was already read (an inbound stream). Returns once both agree; what follows on
    the stream is the tunnel's. Where a pipe moves here, returns the plugin whose it is.
    ProofFailed, PeerClosed, ConnectionLost, or what `claim` raises. The caller bounds the time.
    """
    frame = first
    claimed = False
    moves: str | None = None
    if frame is None:
        await stream.write(handshake.opener())
        frame = await stream.read_exactly(FRAME_BYTES)
    while True:
        received = handshake.receive(frame)
        if received.reply:
            await stream.write(received.reply)
        if received.event is Event.PROVED and not claimed:  # openers that crossed are answered by two proofs
            claimed = True
            moves = await claim()
            named = (handshake.move(moves),) if moves else (handshake.take(), *first_flight())
            await stream.write(b"".join(named))
        elif received.event is Event.CLOSED:
            raise PeerClosed("the peer closed this pipe")
        elif received.event is Event.MOVED and received.frame:
            return received.frame.plugin
        elif received.event in (Event.TAKEN, Event.AGREED):
            return moves
        frame = await stream.read_exactly(FRAME_BYTES)


async def prove_datagram(
    socket: DatagramSocket,
    handshake: Handshake,
    claim: Claim,
    candidates: Sequence[Endpoint],
    *,
    first: tuple[bytes, Endpoint] | None = None,
    rtt_ms: float | None = None,
    first_flight: FirstFlight = nothing,
) -> Agreed:
    """Prove both ends over a UDP socket towards several candidate endpoints at once, and agree on one. Where the round
    trip is known, nothing is sent again before an answer can have come. `first` is the peer's datagram and its source
    where it was already read.

    An authentic packet from an endpoint that nobody predicted is as good as any: the peer-reflexive candidates of
    RFC 8445 section 7.3.1.3. The first flight is sent once: the tunnel repeats it. PeerClosed, ConnectionLost, or what
    `claim` raises.
    The caller bounds the time; whatever ends the attempt without agreement is told to the peer.
    """
    resend_first_s = max(_RESEND_FIRST_S, min(_RESEND_RTTS * (rtt_ms or 0) / 1000, _RESEND_MAX_S))
    proof = _DatagramProof(socket, handshake, claim, candidates, resend_first_s, first_flight=first_flight)
    try:
        remote = await proof.run(first)
        early = [data for data, source in proof.early if source == remote]
        return Agreed(remote, early, proof.moves, proof.answer)
    except BaseException:
        with contextlib.suppress(WarpfleetError):  # the budget may be spent: what ended the attempt says more
            for target in proof.seen:
                socket.send_to(handshake.close(), target)
        raise
    finally:
        await proof.stop()


class _DatagramProof:
    def __init__(
        self,
        socket: DatagramSocket,
        handshake: Handshake,
        claim: Claim,
        candidates: Sequence[Endpoint],
        resend_first_s: float,
        *,
        first_flight: FirstFlight,
    ) -> None:
        self._first_flight = first_flight
        self._resend_first_s = resend_first_s
        self._socket = socket
        self._handshake = handshake
        self._claim = claim
        self._message = handshake.opener()
        self._targets = list(dict.fromkeys(candidates))
        self._flight: Sequence[bytes] = ()
        self._chosen: Endpoint | None = None
        self._greeted = (
            False  # the peer mostly asks again, but not where it greeted many ports and knows not which hears
        )
        self._claiming: asyncio.Task[str | None] | None = None
        self.moves: str | None = None
        self.answer = b""
        self._receiving = asyncio.create_task(socket.receive())
        self.seen: set[Endpoint] = set()  # endpoints that authentic frames came from
        self.early: deque[tuple[bytes, Endpoint]] = deque(maxlen=_EARLY_MAX)  # the tunnel's, that overtook a frame

    async def run(self, first: tuple[bytes, Endpoint] | None) -> Endpoint:
        if first and (agreed := await self._go_on_from(*first)):
            return agreed
        interval_s = self._resend_first_s
        while True:
            for target in self._targets:
                self._socket.send_to(self._message, target)
                for datagram in self._flight:
                    self._socket.send_to(datagram, target)
            self._flight = ()
            agreed, restart = await self._listen(interval_s)
            if agreed:
                return agreed
            interval_s = self._resend_first_s if restart else min(interval_s * _RESEND_FACTOR, _RESEND_MAX_S)

    async def _go_on_from(self, data: bytes, source: Endpoint) -> Endpoint | None:
        """Digest what was read before, and give the peer the time to answer: most paths do within so long."""
        if self._digest(data, source):
            return source
        agreed, _ = await self._listen(_RESEND_MAX_S)
        return agreed

    async def stop(self) -> None:
        tasks: list[asyncio.Task[Any]] = [task for task in (self._receiving, self._claiming) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, duration_s: float) -> tuple[Endpoint | None, bool]:
        """Digest what arrives for so long: the agreed endpoint if there is one, and whether the message changed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + duration_s
        while (left_s := end - loop.time()) > 0:
            waiting = {self._receiving, self._claiming} if self._claiming else {self._receiving}
            done, _ = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if self._receiving in done:
                data, source = self._receiving.result()
                self._receiving = asyncio.create_task(self._socket.receive())
                if self._digest(data, source):
                    return source, False
                if self._greeted:
                    end = loop.time() + _RESEND_MAX_S
            if self._claiming and self._claiming in done:
                self.moves = self._claiming.result()
                self._claiming = None
                self._message = self._handshake.move(self.moves) if self.moves else self._handshake.take()
                self._flight = () if self.moves else self._first_flight()
                self._targets = [self._chosen] if self._chosen else []
                return None, True
        return None, False

    def _digest(self, data: bytes, source: Endpoint) -> bool:
        if not is_frame(data):
            self.early.append((data, source))
            return False
        try:
            received = self._handshake.receive(data)
        except ProofFailed:
            return False
        if received.reply:
            try:
                self._socket.send_to(received.reply, source)
            except WarpfleetError:
                return False  # an endpoint beyond what this attempt may send to: as if it had not been heard
        self.seen.add(source)
        if received.event is Event.KNOCKED and self._chosen is None and source not in self._targets:
            self._targets.append(source)  # a responder that we have greeted waits for us to ask again
        if received.event is Event.GREETED:
            self._greeted = True
            self._targets = [source]
        if received.event is Event.PROVED and self._chosen is None:
            self._chosen = source
            self._targets = []
            self._claiming = asyncio.ensure_future(self._claim())
        if received.event is Event.CLOSED:
            raise PeerClosed("the peer closed this pipe")
        if received.event is Event.MOVED and received.frame:
            self.moves, self.answer = received.frame.plugin, received.reply or b""
            return True
        return received.event is Event.TAKEN or (received.event is Event.AGREED and source == self._chosen)
