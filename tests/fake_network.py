"""A network in memory: datagrams and streams with a fixed delay, loss on demand, and a list of all that was opened."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Count, uncounted

DELAY_S = 0.02  # one way
STUN_SERVER = Endpoint("198.51.100.3", 3478)


class FakeUdp:
    """A datagram socket. `seen_as` is the source address that others see, as behind a NAT."""

    def __init__(self, internet: "Internet", local: Endpoint) -> None:
        self.internet, self.local, self.seen_as = internet, local, local
        self.packets_sent = 0
        self.sent: list[tuple[bytes, Endpoint]] = []
        self.closed = False
        self._queue: asyncio.Queue[tuple[bytes, Endpoint] | None] = asyncio.Queue()
        internet.udp.append(self)

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        if not self.closed:
            self.packets_sent += 1
            self.sent.append((data, remote))
            self.internet.carry(data, self.source_towards(remote), remote)

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
        self._buffer = bytearray()
        self._ended = False
        self._news = asyncio.Event()
        internet.streams.append(self)

    async def write(self, data: bytes) -> None:
        if self.closed or self._ended:
            raise ConnectionLost("closed")
        assert self.other is not None
        self.packets_sent += 1
        asyncio.get_running_loop().call_later(DELAY_S, self.other.arrive, data)

    def arrive(self, data: bytes) -> None:
        """Bytes, or none for the end."""
        self._buffer += data
        self._ended = self._ended or not data
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
        if self.closed or len(self._buffer) < size:
            raise ConnectionLost("the stream ended")

    def close(self) -> None:
        if not self.closed and self.other:
            asyncio.get_running_loop().call_later(DELAY_S, self.other.arrive, b"")
        self.closed = True
        self._news.set()


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


@dataclass
class Internet:
    """All the sockets there are. `loses` says which datagrams get lost."""

    loses: Callable[[bytes, Endpoint, Endpoint], bool] = lambda _data, _source, _target: False
    udp: list[FakeUdp] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    listeners: dict[Endpoint, FakeListener] = field(default_factory=dict)

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

    def open_sockets(self) -> list[FakeUdp | FakeStream]:
        return [socket for socket in (*self.udp, *self.streams) if not socket.closed]


class FakeNetwork:
    """One host's network."""

    def __init__(self, internet: Internet, ip: str, *, relay_ip: str = "198.51.100.9") -> None:
        self.internet, self.ip, self.relay_ip = internet, ip, relay_ip
        self.stun: Exception | None = None  # what a STUN request raises
        self.turn: Exception | None = None  # what an allocation raises
        self.dialled: list[Endpoint] = []
        self.listen_error: Callable[[Endpoint], Exception | None] = lambda _endpoint: None
        self._port = 40000

    def interfaces(self) -> Sequence[Interface]:
        return (Interface("lo", "127.0.0.1", 8), Interface("eth0", self.ip, 24), Interface("eth0", "fe80::1", 64))

    async def open_udp(self, af: int, port: int = 0) -> FakeUdp:
        assert af == 4
        return FakeUdp(self.internet, Endpoint(self.ip, port or self._next_port()))

    async def connect_tcp(self, remote: Endpoint, *, timeout_s: float, discard: Count = uncounted) -> FakeStream:
        self.dialled.append(remote)
        near, far = self.internet.stream_pair(Endpoint(self.ip, self._next_port()), remote)
        near.packets_sent += 1  # the SYN
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(2 * DELAY_S)
            listener = self.internet.listeners.get(remote)
            if listener is None or listener.closed:
                raise ConnectRefused(f"{remote} refused")
        except BaseException:
            near.close()
            far.close()
            discard(near)
            raise
        listener.arrivals.put_nowait(far)
        return near

    async def listen_tcp(self, endpoint: Endpoint) -> FakeListener:
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

    async def allocate_relay(self, af: int, *, timeout_s: float, discard: Count = uncounted) -> FakeUdp:
        await asyncio.sleep(2 * DELAY_S)
        if self.turn:
            raise self.turn
        return FakeUdp(self.internet, Endpoint(self.relay_ip, self._next_port()))

    def _next_port(self) -> int:
        self._port += 1
        return self._port
