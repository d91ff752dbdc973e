"""The pipe over datagrams: QUIC over UDP or through a relay, whose path beneath may be exchanged."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, Self

from warpfleet.core.combo import Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES, Event, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ConnectionLost, DatagramSocket, PipePath
from warpfleet.net.pipe import BasePipe
from warpfleet.net.proving import PeerClosed, next_resend_s
from warpfleet.net.quic_engine import IDLE_S, QuicEngine

_KEEPALIVE_S = 10.0  # NATs forget a UDP mapping after 30 s at the earliest in practice: two of these may get lost
_STALL_S = 3.0  # a peer that has taken nothing more for so long is not waited for
_AGREE_S = 3.0  # a responder that waits for us alone answers within a round trip; some frames may get lost
_FAREWELLS = 2  # one lost datagram should not leave the peer with an open pipe


@dataclass(frozen=True, slots=True)
class DatagramPath:
    """A way to the peer: a socket, and where the peer is as seen from it. TCP is that of `StreamDatagrams`. `answer` is
    for late frames of the proof that was made on it, where that was another one than the pipe's."""

    socket: DatagramSocket
    remote: Endpoint
    relayed: bool = False
    transport: Transport = Transport.UDP
    answer: bytes = b""

    @property
    def path(self) -> PipePath:
        """The way as an application sees it."""
        return PipePath(self.transport, self.socket.local, self.remote, self.relayed, self.socket.through)

    def send(self, data: bytes) -> None:
        """Send one datagram."""
        self.socket.send_to(data, self.remote)


class Watcher(Protocol):
    """Who keeps the paths of a pipe, and is told what they are good for."""

    def sent(self, path: DatagramPath) -> None: ...

    def heard(self, path: DatagramPath) -> None: ...

    def checked(self, path: DatagramPath, challenge: bytes) -> None:
        """The peer has answered a challenge by this path."""

    def gone(self, path: DatagramPath) -> None:
        """A path's socket has ended."""

    def stop(self) -> None:
        """The pipe is over."""


class QuicPipe(BasePipe):
    """A pipe over QUIC. It takes datagrams from every path that it has, and sends on the one that it moved to last.

    The proof of identity stays at hand, since the peer's last frames may have been lost and are then answered again.
    """

    def __init__(self, engine: QuicEngine, path: DatagramPath, handshake: Handshake, early: Iterable[bytes]) -> None:
        super().__init__(handshake.peer.name)
        self._engine = engine
        self._handshake = handshake
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._sealed = False
        self._broken: ConnectionLost | None = None  # where that is no matter of QUIC's
        self._eof_sent = False
        self._asking: asyncio.Task[None] | None = None  # the peer to agree
        self._timer: asyncio.TimerHandle | None = None
        self._pump_pending = False
        self._heard_s = self._loop.time()
        self._alive = self._loop.call_later(_KEEPALIVE_S, self._keep_alive)
        self._active = path
        self._watcher: Watcher | None = None
        self.on_move: Callable[[PipePath], None] | None = None  # hears of each path that it sends on from then on
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._readers = {path: asyncio.create_task(self._read(path))}
        for data in early:
            engine.receive(data, self._loop.time())
        self._pump_soon()

    @classmethod
    async def open(
        cls,
        engine: QuicEngine,
        path: DatagramPath,
        handshake: Handshake,
        early: Iterable[bytes] = (),
        *,
        unanswered: bytes | None = None,
        resend_s: float = 0.0,
    ) -> Self:
        """The pipe, once both ends have proved to be at the ends of the tunnel; `early` came for it before.

        `unanswered` is the frame that the peer has not answered yet: it is sent again after `resend_s`, and so on, and
        the pipe breaks where the peer does not agree within seconds.

        ProofFailed, PeerClosed or ConnectionLost; the caller bounds the time. Whatever ends it is told to the peer.
        """
        pipe = cls(engine, path, handshake, early)
        if unanswered:
            pipe._asking = asyncio.create_task(pipe._ask(unanswered, resend_s))
        try:
            await pipe._seal()
        except BaseException:
            path.send(handshake.close())
            await pipe._end()
            raise
        return pipe

    @property
    def path(self) -> PipePath:
        """What carries the bytes now."""
        return self._active.path

    @property
    def active(self) -> DatagramPath:
        """The way that it sends on."""
        return self._active

    @property
    def paths(self) -> tuple[DatagramPath, ...]:
        """The ways that it has; the one that it sends on is the last."""
        return (*(path for path in self._readers if path != self._active), self._active)

    def move(self, path: DatagramPath) -> None:
        """Send on this path from now on. Datagrams of the others are still taken until they are dropped. What is lost
        on the move is sent again. ConnectionLost for a path that is new, once the pipe has been closed."""
        if path not in self._readers:
            if self._closing:
                raise ConnectionLost("closed here")
            self._readers[path] = asyncio.create_task(self._read(path))
        self._send_on(path)

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody what becomes of the paths."""
        self._watcher = watcher

    def check(self, path: DatagramPath, challenge: bytes) -> None:
        """Ask the peer for an answer by this path (see `net.handshake`)."""
        path.send(self._handshake.check(challenge))

    def drop(self, path: DatagramPath) -> None:
        """Close a path that is not in use."""
        if path != self._active and (reader := self._readers.pop(path, None)):
            reader.cancel()
            path.socket.close()

    @property
    def provisional(self) -> bool:
        """Whether TAKE is not answered yet."""
        return self._asking is not None

    async def agreed(self) -> None:
        """Return once AGREED has come, or what the peer's end of the tunnel says only then. ConnectionLost where
        neither does within seconds."""
        await self._until(lambda: not self.provisional)

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            await self._until(lambda: self._engine.room_bytes > 0, writes=True)
            size = self._engine.room_bytes
            self._engine.write(left[:size].tobytes())
            left = left[size:]
            self._pump_soon()

    async def send_eof(self) -> None:
        """Send no more; the peer reads what was sent before, and then the end. Idempotent."""
        if self._eof_sent:
            return
        await self._until(lambda: True, writes=True)
        self._eof_sent = True
        self._engine.write(b"", end=True)
        self._pump_soon()

    async def _recv(self, max_bytes: int) -> bytes:
        await self._until(lambda: bool(self._engine.received) or self._engine.ended)
        granted_bytes = self._engine.granted_bytes
        data = self._engine.read(max_bytes)
        if self._engine.granted_bytes != granted_bytes:
            self._pump_soon()
        return data

    async def _close(self) -> None:
        with contextlib.suppress(ConnectionLost, TimeoutError):
            await self.send_eof()
            while not self._engine.flushed:
                await self._progress()
        await self._end()

    async def _progress(self) -> None:
        """Wait until the peer has taken more. TimeoutError where it does not."""
        room_bytes = self._engine.room_bytes
        async with asyncio.timeout(_STALL_S):
            await self._until(lambda: self._engine.flushed or self._engine.room_bytes > room_bytes)

    async def _seal(self) -> None:
        """The client checks whose certificate it is before it sends anything; the server waits for its proof."""
        engine, handshake = self._engine, self._handshake
        await self._until(lambda: engine.established)
        if handshake.side is Side.INITIATOR:
            if engine.peer_key != handshake.peer.key:
                raise ProofFailed(f"the tunnel does not end at {self.peer}")
            engine.write(handshake.seal())
            self._pump_soon()
        else:
            await self._until(lambda: len(engine.received) >= FRAME_BYTES)
            if handshake.receive(engine.read(FRAME_BYTES)).event is not Event.SEALED:
                raise ProofFailed(f"the tunnel does not begin at {self.peer}")
        self._sealed = True

    async def _until(self, met: Callable[[], bool], *, writes: bool = False) -> None:
        """Wait for something; ConnectionLost where it cannot come any more."""
        while True:
            lost = self._broken or (ConnectionLost(self._engine.lost) if self._engine.lost else None)
            if writes and (lost or self._eof_sent):
                raise lost or ConnectionLost("the end was sent")
            if met():
                return
            if lost:
                raise lost
            self._news.clear()
            await self._news.wait()

    async def _read(self, path: DatagramPath) -> None:
        with contextlib.suppress(ConnectionLost):
            while True:
                data, source = await path.socket.receive()
                if source == path.remote:
                    self._take(data, path)
        path.socket.close()
        self._readers.pop(path, None)
        if self._watcher:
            self._watcher.gone(path)
        if path == self._active:
            self._fall_back()

    def _fall_back(self) -> None:
        """The socket has gone: an allocation that expired, say."""
        if self._readers:
            self._send_on(next(reversed(self._readers)))
        else:
            self._break(ConnectionLost("the path is gone"))

    def _send_on(self, path: DatagramPath) -> None:
        self._active = path
        self._engine.moved(self._loop.time())
        self._pump_soon()
        if self.on_move:
            self.on_move(path.path)

    def _take(self, data: bytes, path: DatagramPath) -> None:
        if self._watcher:
            self._watcher.heard(path)
        if is_frame(data):
            self._take_frame(data, path)
        else:
            self._heard_s = self._loop.time()  # frames are none of QUIC's, whose idle timeout they do not keep off
            self._engine.receive(data, self._loop.time())
            if self._engine.confirmed:
                self._agree()
            self._news.set()  # before the pump is due, so that an answer leaves with it
            self._pump_soon()

    def _take_frame(self, data: bytes, path: DatagramPath) -> None:
        try:
            received = self._handshake.receive(data)
        except ProofFailed:
            if path.answer:
                path.send(path.answer)
            return
        if received.reply:
            path.send(received.reply)
        if received.event is Event.AGREED:
            self._agree()
        if received.event is Event.CHECKED and received.frame and self._watcher:
            self._watcher.checked(path, received.frame.initiator_nonce)
        if received.event is Event.CLOSED and (self._asking or not self._sealed):
            self._break(PeerClosed("the peer closed this pipe"))

    def _agree(self) -> None:
        if self._asking:
            self._asking.cancel()
            self._asking = None
            self._news.set()

    async def _ask(self, frame: bytes, interval_s: float) -> None:
        end_s = self._loop.time() + _AGREE_S
        while self._loop.time() + interval_s < end_s:
            await asyncio.sleep(interval_s)
            self._active.send(frame)
            interval_s = next_resend_s(interval_s)
        await asyncio.sleep(end_s - self._loop.time())
        self._break(ConnectionLost("the peer did not agree"))

    def _break(self, reason: ConnectionLost) -> None:
        self._broken = self._broken or reason
        self._news.set()

    def _pump_soon(self) -> None:
        """Once for all that is at hand: datagrams come, and bytes go, in batches."""
        if not self._pump_pending:
            self._pump_pending = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_pending = False
        outgoing = self._engine.outgoing(self._loop.time())
        for data in outgoing:
            self._active.send(data)
        if outgoing and self._watcher:
            self._watcher.sent(self._active)
        if self._timer:
            self._timer.cancel()
        due_s = self._engine.due_s
        self._timer = self._loop.call_at(due_s, self._tick) if due_s is not None else None
        self._news.set()

    def _tick(self) -> None:
        self._engine.tick(self._loop.time())
        self._pump()

    def _keep_alive(self) -> None:
        """Have a silent peer answer, and give it up in the end: for QUIC's idle timeout what is sent counts as well."""
        silent_s = self._loop.time() - self._heard_s
        if silent_s >= IDLE_S:
            self._break(ConnectionLost(f"nothing was heard for {IDLE_S:g} s"))
            return
        next_s = _KEEPALIVE_S - silent_s
        if next_s <= 0:
            self._engine.ping()
            self._pump_soon()
            next_s = min(_KEEPALIVE_S, IDLE_S - silent_s)
        self._alive = self._loop.call_later(next_s, self._keep_alive)

    async def _end(self) -> None:
        farewell = self._engine.close(self._loop.time())
        for data in farewell * _FAREWELLS:
            self._active.send(data)
        self._alive.cancel()
        if self._asking:
            self._asking.cancel()
        if self._timer:
            self._timer.cancel()
        if self._watcher:
            self._watcher.stop()
        for reader in self._readers.values():
            reader.cancel()
        await asyncio.gather(*self._readers.values(), return_exceptions=True)
        await asyncio.sleep(0)  # a relayed socket hands its datagrams to the loop: let them go before it does
        for path in self._readers:
            path.socket.close()
        self._news.set()
        if not self.closed.done():
            self.closed.set_result(None)
