"""The kernel's sockets as a network's datagram sockets, streams and listeners.

They sit on the event loop's readiness alone, without transports, so that a won socket can be taken out (`detach`),
passed to another process as a file descriptor, and wrapped again there (`from_socket`). One task may read and one may
write at a time.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Count, StreamEnded, Unreachable, uncounted
from warpfleet.net.readiness import Readiness, wake

RECEIVE_QUEUE_DATAGRAMS = 256  # a reader that is this far behind loses packets, as it would in the kernel's own buffer
MAX_DATAGRAM_BYTES = 65_535  # the largest UDP datagram
DATAGRAMS_A_TURN = 32  # read before other sockets get their turn
LISTEN_BACKLOG = 128
READ_LIMIT_BYTES = 262_144  # one recv() at most, whatever the caller would take


# A peer that vanished without a word is found out within half a minute of silence. What is on its way is not bounded by
# TCP_USER_TIMEOUT, which would also end a stream whose peer is slow to read.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}  # seconds, seconds, probes

# By family: the level of the options, the one that limits hops, and the one that sets the least TTL of what is heard,
# which Python does not name: IP_MINTTL of linux/in.h, IPV6_MINHOPCOUNT of linux/in6.h.
_HOP_OPTIONS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL, 21),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 73),
}
_DEFAULT_HOPS = -1  # what the kernel takes as its own default

# struct linger of sys/socket.h: whether to, and for how many seconds. For none means RST.
_RESET, _NO_RESET = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


def local_endpoint(opened: socket.socket) -> Endpoint:
    """The bound transport address of a socket."""
    ip, port = opened.getsockname()[:2]
    return Endpoint(ip, port)


@contextlib.contextmanager
def _hops_limited(opened: socket.socket, hop_limit: int | None) -> Iterator[None]:
    """What a TCP socket sends inside the block passes so many routers at most. That one says that it did not get
    further does not end the socket: the router quotes a packet with no hops left, and such ones are not for it."""
    if hop_limit is None:
        yield
        return
    level, limit, least = _HOP_OPTIONS[opened.family]
    opened.setsockopt(level, least, 2)
    opened.setsockopt(level, limit, hop_limit)
    yield
    opened.setsockopt(level, limit, _DEFAULT_HOPS)


class Inbox:
    """The bounded queue of datagrams that nobody has asked for yet; the oldest make room for the newest."""

    def __init__(self) -> None:
        self._queue: deque[tuple[bytes, Endpoint]] = deque(maxlen=RECEIVE_QUEUE_DATAGRAMS)
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    def put(self, data: bytes, source: Endpoint) -> None:
        """Queue a datagram."""
        self._queue.append((data, source))
        if self._waiter is not None:
            wake(self._waiter)

    async def get(self) -> tuple[bytes, Endpoint]:
        """The oldest datagram. ConnectionLost once closed and empty."""
        while not self._queue:
            if self.closed:
                raise ConnectionLost("closed")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._queue.popleft()

    def close(self) -> None:
        """Forget what is queued; idempotent."""
        self.closed = True
        self._queue.clear()
        if self._waiter is not None:
            wake(self._waiter)


class UdpSocket:
    """A bound UDP socket."""

    through = None

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._local = local_endpoint(opened)
        self._inbox = Inbox()
        self._taps: list[Callable[[bytes, Endpoint], bool]] = []
        self._packets_sent = 0
        self._loop.add_reader(opened.fileno(), self._on_readable)

    @classmethod
    def from_socket(cls, opened: socket.socket) -> Self:
        """Wrap a bound non-blocking socket, which is owned from here on."""
        return cls(opened)

    @property
    def local(self) -> Endpoint:
        """The bound transport address."""
        return self._local

    @property
    def packets_sent(self) -> int:
        """How many datagrams the kernel took."""
        return self._packets_sent

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram; what the network reports (no route, a full buffer, a firewall) is swallowed like loss."""
        if self._inbox.closed:
            return
        try:
            self._socket.sendto(data, remote)
        except OSError:
            return
        self._packets_sent += 1

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram and where it came from. ConnectionLost once the socket is closed."""
        return await self._inbox.get()

    def tap(self, take: Callable[[bytes, Endpoint], bool]) -> Callable[[], None]:
        """Show each datagram to `take` first, which returns True for those it keeps. Returns what undoes it."""
        self._taps.append(take)
        return lambda: self._taps.remove(take)

    def detach(self) -> socket.socket:
        """Take the kernel's socket out; datagrams that were queued here are lost. This object is closed."""
        if self._inbox.closed:
            raise ConnectionLost("closed here")
        self._inbox.close()
        self._loop.remove_reader(self._socket.fileno())
        return self._socket

    def close(self) -> None:
        """Close; idempotent. A pending `receive` raises ConnectionLost."""
        if not self._inbox.closed:
            self.detach().close()

    def _on_readable(self) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            if self._inbox.closed:  # by a tap
                return
            try:
                data, source = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
            except OSError:  # nothing left, or an ICMP error that belongs to some earlier datagram
                return
            sender = Endpoint(source[0], source[1])
            if not any(take(data, sender) for take in tuple(self._taps)):
                self._inbox.put(data, sender)


class TcpStream:
    """A connected TCP stream. Nothing is read ahead, so that `detach` loses no byte."""

    def __init__(self, opened: socket.socket) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
        self._ready = Readiness(opened)
        self._local = local_endpoint(opened)
        self._remote = Endpoint(*opened.getpeername()[:2])

    @classmethod
    def from_socket(cls, opened: socket.socket) -> Self:
        """Wrap a connected non-blocking socket, which is owned from here on. OSError where it is connected no more."""
        return cls(opened)

    @property
    def local(self) -> Endpoint:
        """The local transport address."""
        return self._local

    @property
    def remote(self) -> Endpoint:
        """The remote transport address."""
        return self._remote

    @property
    def packets_sent(self) -> int | None:
        """How many segments the kernel has sent (see `segments_sent`), until it was closed or detached."""
        return self._ready.packets_sent

    async def write(self, data: bytes) -> None:
        """Write all of `data`. ConnectionLost where the stream has ended."""
        left = memoryview(data)
        while left:
            self._ready.require_open()
            try:
                left = left[self._ready.socket.send(left) :]
            except BlockingIOError:
                await self._ready.writable()
            except OSError as error:
                raise ConnectionLost(str(error)) from error

    async def read(self, max_bytes: int) -> bytes:
        """At least one byte and at most `max_bytes`. StreamEnded at the end of the stream, ConnectionLost where it was
        reset, or closed here."""
        while True:
            self._ready.require_open()
            try:
                data = self._ready.socket.recv(min(max_bytes, READ_LIMIT_BYTES))
            except BlockingIOError:
                await self._ready.readable()
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            else:
                if not data:
                    raise StreamEnded("closed by the peer")
                return data

    async def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. ConnectionLost where the stream ends before."""
        data = bytearray()
        while len(data) < size:
            data += await self.read(size - len(data))
        return bytes(data)

    def write_eof(self) -> None:
        """Say that no more follows. ConnectionLost where the stream has ended."""
        self._ready.require_open()
        try:
            self._ready.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        self._ready.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_RESET)

    def reset_on_close(self) -> None:
        """From now on whatever closes the socket resets it, unless `write_eof` has come before."""
        self._ready.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def detach(self) -> socket.socket:
        """Take the kernel's socket out, every unread byte still in it. This object is closed."""
        return self._ready.detach()

    def close(self) -> None:
        """Close; idempotent."""
        self._ready.close()


class TcpListener:
    """A listening TCP socket."""

    def __init__(self, opened: socket.socket) -> None:
        opened.listen(LISTEN_BACKLOG)
        self._ready = Readiness(opened)
        self._local = local_endpoint(opened)

    @property
    def local(self) -> Endpoint:
        """The bound transport address."""
        return self._local

    async def accept(self) -> TcpStream:
        """The next inbound stream. ConnectionLost once the listener is closed."""
        while True:
            self._ready.require_open()
            try:
                inbound, _ = self._ready.socket.accept()
                inbound.setblocking(False)
                return TcpStream(inbound)
            except BlockingIOError:
                await self._ready.readable()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise

    def close(self) -> None:
        """Close; idempotent."""
        self._ready.close()


async def connect(
    opened: socket.socket,
    remote: Endpoint,
    *,
    timeout_s: float,
    hop_limit: int | None = None,
    discard: Count = uncounted,
) -> TcpStream:
    """Connect a non-blocking TCP socket, which is owned from here on. ConnectRefused, Unreachable or TimeoutError.
    Where it fails or is cancelled, `discard` gets the count of its segments. The first SYN passes at most `hop_limit`
    routers.

    The verdict of `connect_ex` counts: where the peer's crossing SYN already owns the 4-tuple it is EADDRNOTAVAIL, and
    the socket would report itself writable without an error all the same.
    """
    ready = Readiness(opened)
    try:
        with _hops_limited(opened, hop_limit):
            code = opened.connect_ex(remote)
        if code == errno.EINPROGRESS:
            async with asyncio.timeout(timeout_s):
                await ready.writable()
            code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise _refusal(code, remote)
        return TcpStream(ready.detach())
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"{remote} did not answer within {timeout_s:g} s") from error
        raise Unreachable(f"{remote}: {error.strerror}") from error
    finally:
        if not ready.closed:
            ready.close()
            discard(ready)


def _refusal(code: int, remote: Endpoint) -> Exception:
    if code in (errno.ECONNREFUSED, errno.ECONNRESET):
        return ConnectRefused(f"{remote} refused the connection")
    if code == errno.ETIMEDOUT:
        return TimeoutError(f"{remote} did not answer")
    return Unreachable(f"{remote}: {os.strerror(code)}")
