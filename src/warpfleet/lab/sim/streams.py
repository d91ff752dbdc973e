"""The TCP of one host: its connections as streams, its listeners, and who has which port."""

import asyncio
import errno
import os
import random
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address

from warpfleet.core.endpoint import Endpoint
from warpfleet.lab.sim.packet import Flags, Packet, Segment, reset_for
from warpfleet.lab.sim.ports import Binding, Ports, covers
from warpfleet.lab.sim.tcp import Connection, Failure, State
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Count, StreamEnded, Unreachable, uncounted

_INITIAL_SEQS = 2**31  # RFC 9293 section 3.4.1 has twice as many; here no sequence number wraps


class SimStream:
    """A TCP connection."""

    def __init__(self, stack: "TcpStack", local: Endpoint, remote: Endpoint, connection: Connection) -> None:
        self.connection = connection
        self._stack = stack
        self._local = local
        self._remote = remote
        self._closed = False
        self._resets = False
        self._packets_sent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    @property
    def local(self) -> Endpoint:
        """The local transport address."""
        return self._local

    @property
    def remote(self) -> Endpoint:
        """The remote transport address."""
        return self._remote

    @property
    def packets_sent(self) -> int:
        """How many segments have left, retransmissions and pure ACKs included."""
        return self._packets_sent

    async def established(self) -> None:
        """Return once it is. ConnectRefused or TimeoutError."""
        while self.connection.state in (State.SYN_SENT, State.SYN_RECEIVED):
            await self._changed()
        if self.connection.failure is Failure.REFUSED:
            raise ConnectRefused(f"{self.remote} refused the connection")
        if self.connection.failure is Failure.NO_ANSWER:
            raise TimeoutError(f"{self.remote} did not answer")

    async def write(self, data: bytes) -> None:
        """Write all of `data`. ConnectionLost where the stream has ended."""
        self._require_open()
        if self.connection.state is State.CLOSED:
            raise ConnectionLost(f"{self.remote} is gone")
        self.transmit(data)

    def transmit(self, data: bytes) -> None:
        """Send `data` for whoever need not know whether the stream has ended."""
        if not self._closed and self.connection.state is not State.CLOSED:
            self.connection.write(data, self._now_s())
            self.flush()

    async def read(self, max_bytes: int) -> bytes:
        """At least one byte and at most `max_bytes`. StreamEnded at the end of the stream, ConnectionLost where it was
        reset, or closed here."""
        received = self.connection.received
        while not received:
            self._require_open()
            if self.connection.ended:
                raise StreamEnded("closed by the peer")
            if self.connection.state is State.CLOSED:
                raise ConnectionLost(f"{self.remote} is gone")
            await self._changed()
        self._require_open()
        data = bytes(received[:max_bytes])
        del received[:max_bytes]
        return data

    async def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. ConnectionLost where the stream ends before."""
        data = bytearray()
        while len(data) < size:
            data += await self.read(size - len(data))
        return bytes(data)

    def write_eof(self) -> None:
        """Say that no more follows. ConnectionLost where the stream has ended."""
        self._require_open()
        if self.connection.state is State.CLOSED:
            raise ConnectionLost(f"{self.remote} is gone")
        self._resets = False
        self.connection.write_eof(self._now_s())
        self.flush()

    def reset_on_close(self) -> None:
        """From now on `close` resets the connection, unless `write_eof` has come before."""
        self._resets = True

    def close(self) -> None:
        """Close; idempotent."""
        self._closed = True
        if self._resets:
            self.connection.abort()
        else:
            self.connection.close(self._now_s())
        self.flush()

    def arrive(self, segment: Segment) -> None:
        """Take a segment from the network."""
        self.connection.receive(segment, self._now_s())
        self.flush()

    def flush(self, hop_limit: int | None = None) -> None:
        """Send what the connection wants sent, set its timer, and wake whoever waits."""
        connection = self.connection
        outgoing, connection.outgoing = connection.outgoing, []
        self._packets_sent += len(outgoing)
        for segment in outgoing:
            self._stack.send(Packet(self._local, self._remote, segment, hop_limit))
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(connection.due_s, self._tick) if connection.due_s is not None else None
        if connection.state is State.CLOSED:
            self._stack.forget(self)
        self._news.set()

    def _tick(self) -> None:
        self.connection.tick(self._now_s())
        self.flush()

    async def _changed(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _require_open(self) -> None:
        if self._closed:
            raise ConnectionLost("closed here")

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


class SimListener:
    """A listening TCP socket."""

    def __init__(self, stack: "TcpStack", local: Endpoint) -> None:
        self._stack = stack
        self._local = local
        self._waiting: deque[SimStream] = deque()
        self._news = asyncio.Event()
        self._closed = False

    @property
    def local(self) -> Endpoint:
        """The bound transport address."""
        return self._local

    async def accept(self) -> SimStream:
        """The next inbound stream. ConnectionLost once the listener is closed."""
        while not self._waiting:
            if self._closed:
                raise ConnectionLost("closed here")
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Close, and with it the streams that nobody has accepted; idempotent."""
        if not self._closed:
            self._closed = True
            self._stack.forget(self)
            while self._waiting:
                self._waiting.popleft().close()
            self._news.set()

    def offer(self, stream: SimStream) -> None:
        """Queue a stream that is established."""
        if self._closed:
            stream.close()
        else:
            self._waiting.append(stream)
            self._news.set()


class TcpStack:
    """The TCP of a host. `address_of` has the address that packets of a family leave from; Unreachable where none."""

    def __init__(self, send: Callable[[Packet], None], address_of: Callable[[int], str], rng: random.Random) -> None:
        self.send = send
        self._address_of = address_of
        self._rng = rng
        self._ports = Ports(rng)
        self._streams: dict[tuple[Endpoint, Endpoint], SimStream] = {}
        self._opening: dict[SimStream, SimListener] = {}
        self._bindings: dict[SimStream | SimListener, Binding] = {}

    async def connect(
        self,
        remote: Endpoint,
        *,
        timeout_s: float,
        local_port: int | None = None,
        hop_limit: int | None = None,
        discard: Count = uncounted,
    ) -> SimStream:
        """Connect. ConnectRefused, Unreachable or TimeoutError; OSError where others have `local_port`. The first SYN
        goes as far as `hop_limit` lets it."""
        ip = self._address_of(remote.af)
        if (Endpoint(ip, local_port or 0), remote) in self._streams:  # the crossing SYN of the peer has made it
            raise Unreachable(f"{remote}: {os.strerror(errno.EADDRNOTAVAIL)}")
        binding = self._ports.bind(Endpoint(ip, local_port or 0), shared=local_port is not None)
        stream = self._stream(binding.local, remote)
        self._bindings[stream] = binding
        stream.connection.connect(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(timeout_s):
                stream.flush(hop_limit)
                await stream.established()
        except BaseException:
            stream.close()
            discard(stream)
            raise
        return stream

    def listen(self, endpoint: Endpoint, *, shared: bool) -> SimListener:
        """Listen. Unreachable where the host has no such family, OSError where others have the port."""
        if not ip_address(endpoint.ip).is_loopback:
            self._address_of(endpoint.af)
        binding = self._ports.bind(endpoint, shared=shared)
        listener = SimListener(self, binding.local)
        self._bindings[listener] = binding
        return listener

    def forget(self, socket: SimStream | SimListener) -> None:
        """A connection or a listener is closed."""
        if isinstance(socket, SimStream):
            self._streams.pop((socket.local, socket.remote), None)
            self._opening.pop(socket, None)
        if binding := self._bindings.pop(socket, None):
            self._ports.release(binding)

    def arrive(self, packet: Packet, segment: Segment) -> None:
        """Take a segment from the network: for a connection, or else for a listener; any other is answered by a RST."""
        stream = self._streams.get((packet.destination, packet.source))
        if stream is None and segment.opens and (listener := self._listening(packet.destination)):
            stream = self._stream(packet.destination, packet.source)
            self._opening[stream] = listener
            stream.connection.accept(segment, asyncio.get_running_loop().time())
            stream.flush()
        elif stream:
            stream.arrive(segment)
            if stream.connection.state is State.ESTABLISHED and stream in self._opening:
                self._opening.pop(stream).offer(stream)
        elif not segment.flags & Flags.RST:
            self.send(reset_for(packet, segment))

    def _stream(self, local: Endpoint, remote: Endpoint) -> SimStream:
        stream = SimStream(self, local, remote, Connection(self._rng.randrange(_INITIAL_SEQS)))
        self._streams[local, remote] = stream
        return stream

    def _listening(self, endpoint: Endpoint) -> SimListener | None:
        for socket in self._bindings:
            local = socket.local
            same_port = (local.af, local.port) == (endpoint.af, endpoint.port)
            if isinstance(socket, SimListener) and same_port and covers(local.ip, endpoint.ip):
                return socket
        return None
