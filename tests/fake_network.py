"""A network in memory: datagrams and streams with a fixed delay, loss on demand, and a list of all that was opened."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Count, StreamEnded, uncounted

DELAY_S = 0.02  # one way
STUN_SERVER = Endpoint("198.51.100.3", 3478)


class FakeUdp:
    """A datagram socket. `seen_as` is the source address that others see, as behind a NAT."""

    through: Endpoint | None = None

    def __init__(self, internet: "Internet", local: Endpoint) -> None:
        self.internet, self.local, self.seen_as = internet, local, local
        self.packets_sent = 0
        self.sent: list[tuple[bytes, Endpoint]] = []
        self.permitted: list[str] = []
        self.closed = False
        self._queue: asyncio.Queue[tuple[bytes, Endpoint] | None] = asyncio.Queue()
        internet.udp.append(self)

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        if not self.closed:
            self.packets_sent += 1
            self.sent.append((data, remote))
            self.internet.carry(data, self.source_towards(remote), remote)

    def permit(self, ip: str) -> None:
        self.permitted.append(ip)

    def source_towards(self, _remote: Endpoint) -> Endpoint:
        """Where datagrams to `remote` seem to come from."""
        return self.seen_as

    def hears(self, _source: Endpoint, target: Endpoint) -> bool:
        """Whether a datagram from `source` to `target` comes in here."""
        return target in (self.local, self.seen_as)

    def arrive(self, data: bytes, source: Endpoint) -> None:
        if not self.closed:
            self._queue.put_nowait((data, source))

    async def receive(self) -> tuple[bytes, Endpoint]:
        item = None if self.closed and self._queue.empty() else await self._queue.get()
        if item is None:
            raise ConnectionLost("closed")
        return item

    def close(self) -> None:
        self.closed = True
        self._queue.put_nowait(None)


class FakeStream:
    """One end of a TCP connection."""

    def __init__(self, internet: "Internet", local: Endpoint, remote: Endpoint) -> None:
        self.local, self.remote = local, remote
        self.packets_sent = 0
        self.closed = False
        self.other: FakeStream | None = None
        self._arriving: deque[bytes | ConnectionLost] = deque()
        self._buffer = bytearray()
        self._ended: ConnectionLost | None = None
        self._eof_sent = self._resets = self._gone = False
        self._news = asyncio.Event()
        internet.streams.append(self)

    async def write(self, data: bytes) -> None:
        if self.closed or self._gone:
            raise ConnectionLost("closed")
        assert self.other is not None
        self.packets_sent += 1
        self.other.expect(data)

    def expect(self, data: bytes | ConnectionLost) -> None:
        """Let bytes arrive, or the end, in the order of this."""
        self._arriving.append(data)
        asyncio.get_running_loop().call_later(DELAY_S, self._arrive)

    def _arrive(self) -> None:
        data = self._arriving.popleft()
        if isinstance(data, bytes):
            self._buffer += data
        else:
            self._gone = self._gone or not isinstance(data, StreamEnded)
            self._ended = self._ended or data
        self._news.set()

    async def read(self, max_bytes: int) -> bytes:
        await self._until(1)
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        return data

    async def read_exactly(self, size: int) -> bytes:
        await self._until(size)
        return await self.read(size)

    async def _until(self, size: int) -> None:
        while not self.closed and len(self._buffer) < size and not self._ended:
            self._news.clear()
            await self._news.wait()
        if not self.closed and len(self._buffer) < size and self._ended:
            raise self._ended
        if self.closed:
            raise ConnectionLost("closed here")

    def write_eof(self) -> None:
        if self.closed:
            raise ConnectionLost("closed here")
        assert self.other is not None
        self._eof_sent, self._resets = True, False
        self.other.expect(StreamEnded("closed by the peer"))

    def reset_on_close(self) -> None:
        self._resets = True

    def close(self) -> None:
        if not self.closed and self.other:
            if not self._eof_sent and not self._resets:
                self.other.expect(StreamEnded("closed by the peer"))
            self.other.expect(ConnectionLost("reset"))
        self.closed = True
        self._news.set()


@dataclass(frozen=True)
class Asked:
    """A stream to a STUN server, after its one request."""

    packets_sent: int = 1


class FakeListener:
    """A listening socket."""

    def __init__(self, local: Endpoint) -> None:
        self.local = local
        self.closed = False
        self.arrivals: asyncio.Queue[FakeStream | None] = asyncio.Queue()

    async def accept(self) -> FakeStream:
        stream = await self.arrivals.get()
        if stream is None:
            raise ConnectionLost("closed")
        return stream

    def close(self) -> None:
        self.closed = True
        self.arrivals.put_nowait(None)


Path = tuple[Endpoint, Endpoint]
"""Whence and whereto, as both are seen from outside."""


@dataclass
class Internet:
    """All the sockets there are. `loses` says which datagrams get lost.

    `opened` are the paths of SYNs, on which a filter lets in what comes back, unless they are `spoilt` by a refusal."""

    loses: Callable[[bytes, Endpoint, Endpoint], bool] = lambda _data, _source, _target: False
    udp: list[FakeUdp] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    listeners: dict[Endpoint, FakeListener] = field(default_factory=dict)
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(40_001))
    hosts: dict[str, "FakeNetwork"] = field(default_factory=dict)
    dialling: dict[Path, tuple[FakeStream, "asyncio.Future[None]"]] = field(default_factory=dict)
    opened: set[Path] = field(default_factory=set)
    spoilt: set[Path] = field(default_factory=set)

    def carry(self, data: bytes, source: Endpoint, target: Endpoint) -> None:
        if not self.loses(data, source, target):
            asyncio.get_running_loop().call_later(DELAY_S, self._arrive, data, source, target)

    def _arrive(self, data: bytes, source: Endpoint, target: Endpoint) -> None:
        for socket in self.udp:
            if socket.hears(source, target):
                socket.arrive(data, source)

    def stream_pair(self, a: Endpoint, b: Endpoint) -> tuple[FakeStream, FakeStream]:
        near, far = FakeStream(self, a, b), FakeStream(self, b, a)
        near.other, far.other = far, near
        return near, far

    def syn(self, source: Endpoint, target: Endpoint, hop_limit: int | None) -> None:
        """Send a SYN; with a hop limit it opens the way back, and dies."""
        self.opened.add((source, target))
        if hop_limit is None:
            asyncio.get_running_loop().call_later(DELAY_S, self._syn_arrives, source, target)

    def _syn_arrives(self, source: Endpoint, target: Endpoint) -> None:
        host = self.hosts.get(target.ip)
        let_in = (target, source) in self.opened and (target, source) not in self.spoilt
        if host and host.filters and not let_in:
            if host.refuses:
                self._refuse(source, target)
            return
        if (source, target) not in self.dialling:
            return
        near, _ = self.dialling[source, target]
        inside = Endpoint(target.ip, target.port - host.shift) if host else target
        listener = self.listeners.get(inside)
        if (target, source) in self.dialling:
            far, _ = self.dialling[target, source]
            self._join(near, far)
            self._answer((source, target), (target, source))
        elif listener and not listener.closed:
            far = FakeStream(self, inside, source)
            self._join(near, far)
            asyncio.get_running_loop().call_later(DELAY_S, self._accepted, (source, target), listener, far)
        else:
            self._refuse(source, target)

    def _accepted(self, path: Path, listener: FakeListener, far: FakeStream) -> None:
        if path not in self.dialling or listener.closed:
            far.close()
            return
        listener.arrivals.put_nowait(far)
        _settle(self.dialling[path][1], None)

    def _join(self, near: FakeStream, far: FakeStream) -> None:
        near.other, far.other = far, near

    def _answer(self, *paths: Path, error: Exception | None = None) -> None:
        for answer in (self.dialling[path][1] for path in paths if path in self.dialling):
            asyncio.get_running_loop().call_later(DELAY_S, _settle, answer, error)

    def _refuse(self, source: Endpoint, target: Endpoint) -> None:
        self.spoilt.add((source, target))
        self._answer((source, target), error=ConnectRefused(f"{target} refused"))

    def open_sockets(self) -> list[FakeUdp | FakeStream]:
        return [socket for socket in (*self.udp, *self.streams) if not socket.closed]


def _settle(answer: "asyncio.Future[None]", error: Exception | None) -> None:
    if not answer.done():
        answer.set_exception(error) if error else answer.set_result(None)


class FakeLease:
    """A port mapping that the test grants, changes and takes back."""

    def __init__(self, port: int, af: int) -> None:
        self.port, self.af = port, af
        self.news: asyncio.Queue[Endpoint | None] = asyncio.Queue()
        self.answered = asyncio.Event()

    async def settled(self) -> None:
        await self.answered.wait()

    async def changed(self) -> Endpoint | None:
        return await self.news.get()


class FakeNetwork:
    """One host's network, behind a router that, for TCP, moves each port by `shift`, and lets in only those whom the
    host has dialled where it `filters`; if it `refuses`, it tells the others so."""

    def __init__(self, internet: Internet, ip: str, *, relay_ip: str = "198.51.100.9") -> None:
        self.internet, self.ip, self.relay_ip = internet, ip, relay_ip
        self.stun: Exception | None = None  # what a STUN request raises
        self.turn: Exception | None = None  # what an allocation raises
        self.dialled: list[Endpoint] = []
        self.leases: list[FakeLease] = []
        self.listen_error: Callable[[Endpoint], Exception | None] = lambda _endpoint: None
        self.shift, self.filters, self.refuses = 0, False, False
        internet.hosts[ip] = self

    def interfaces(self) -> Sequence[Interface]:
        return (Interface("lo", "127.0.0.1", 8), Interface("eth0", self.ip, 24), Interface("eth0", "fe80::1", 64))

    def map_port(self, port: int, af: int) -> FakeLease:
        self.leases.append(FakeLease(port, af))
        return self.leases[-1]

    async def open_udp(self, af: int, port: int = 0) -> FakeUdp:
        assert af == 4
        return FakeUdp(self.internet, Endpoint(self.ip, port or self._next_port()))

    async def connect_tcp(
        self,
        remote: Endpoint,
        *,
        timeout_s: float,
        local_port: int | None = None,
        hop_limit: int | None = None,
        discard: Count = uncounted,
    ) -> FakeStream:
        self.dialled.append(remote)
        near = FakeStream(self.internet, Endpoint(self.ip, local_port or self._next_port()), remote)
        near.packets_sent += 1  # the SYN
        outside = Endpoint(self.ip, near.local.port + self.shift)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.internet.dialling[outside, remote] = near, answer
        self.internet.syn(outside, remote, hop_limit)
        try:
            async with asyncio.timeout(timeout_s):
                await answer
        except BaseException:
            near.close()
            discard(near)
            raise
        finally:
            del self.internet.dialling[outside, remote]
        return near

    async def listen_tcp(self, endpoint: Endpoint, *, shared: bool = False) -> FakeListener:
        if error := self.listen_error(endpoint):
            raise error
        ip = self.ip if endpoint.ip in ("0.0.0.0", "::") else endpoint.ip
        local = Endpoint(ip, endpoint.port or self._next_port())
        return self.internet.listeners.setdefault(local, FakeListener(local))

    async def external_endpoint(self, socket: FakeUdp, *, timeout_s: float) -> Endpoint:
        await asyncio.sleep(2 * DELAY_S)
        if self.stun:
            raise self.stun
        return socket.source_towards(STUN_SERVER)

    async def external_tcp_endpoint(
        self, af: int, local_port: int, *, timeout_s: float, discard: Count = uncounted
    ) -> Endpoint:
        await asyncio.sleep(4 * DELAY_S)
        discard(Asked())
        if self.stun:
            raise self.stun
        return Endpoint(self.ip, local_port + self.shift)

    async def allocate_relay(self, af: int, *, timeout_s: float, discard: Count = uncounted) -> FakeUdp:
        await asyncio.sleep(2 * DELAY_S)
        if self.turn:
            raise self.turn
        return FakeUdp(self.internet, Endpoint(self.relay_ip, self._next_port()))

    def _next_port(self) -> int:
        return next(self.internet.ports)
