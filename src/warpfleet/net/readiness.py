"""Waiting for a TCP socket of the kernel, on the event loop's readiness alone."""

import asyncio
import socket
import struct
from asyncio.trsock import TransportSocket
from collections.abc import Callable

from warpfleet.net.interfaces import ConnectionLost

# struct tcp_info of linux/tcp.h up to tcpi_segs_out: 8 bytes of states and flags, 24 words from tcpi_rto to
# tcpi_total_retrans, 4 double words from tcpi_pacing_rate to tcpi_bytes_received. Later kernels append to it.
_TCP_INFO = struct.Struct("=8x 24I 4Q I")


def segments_sent(opened: socket.socket | TransportSocket) -> int | None:
    """How many segments the kernel has sent on a TCP socket: SYN, retransmissions and pure ACKs included, but not the
    SYN-ACK of an accepted one, which its listener sent. None where the kernel does not tell (Linux before 4.2)."""
    info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return int(_TCP_INFO.unpack(info)[-1]) if len(info) == _TCP_INFO.size else None


class _Watch:
    """Waiting for one kind of readiness of a socket, by one task at a time. The loop goes on watching from one wait to
    the next, since to begin and to end that takes as long as to receive."""

    def __init__(self, number: int, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        self._number = number
        self._add = add
        self._remove = remove
        self._loop = asyncio.get_running_loop()
        self._watching = False
        self._stale = False
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another task waits for this socket already")
        self._waiter = self._loop.create_future()
        self._stale = self._watching
        if not self._watching:
            self._add(self._number, self._on_ready)
            self._watching = True
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _on_ready(self) -> None:
        if self._waiter is None:
            self.end()
        elif self._stale:  # of before this wait, maybe; if not, it is said again at once
            self._stale = False
        else:
            wake(self._waiter)

    def end(self, error: Exception | None = None) -> None:
        """Stop watching; whoever waits gets the error."""
        if self._watching and not self._loop.is_closed():
            self._remove(self._number)
            self._watching = False
        if error and self._waiter and not self._waiter.done():
            self._waiter.set_exception(error)


class Readiness:
    """Waiting until a TCP socket is readable or writable, which `close` ends with ConnectionLost."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.closed = False
        loop = asyncio.get_running_loop()
        self._read = _Watch(opened.fileno(), loop.add_reader, loop.remove_reader)
        self._write = _Watch(opened.fileno(), loop.add_writer, loop.remove_writer)
        self._sent_in_the_end: int | None = None

    @property
    def packets_sent(self) -> int | None:
        """Segments, as `segments_sent` counts them."""
        return self._sent_in_the_end if self.closed else segments_sent(self.socket)

    async def readable(self) -> None:
        """Return once there is something to read."""
        self.require_open()
        await self._read.wait()

    async def writable(self) -> None:
        """Return once it takes something, or a connect has ended."""
        self.require_open()
        await self._write.wait()

    def require_open(self) -> None:
        """ConnectionLost where it is closed."""
        if self.closed:
            raise ConnectionLost("closed here")

    def detach(self) -> socket.socket:
        """Give the socket away; whoever waits gets ConnectionLost."""
        self.require_open()
        self._sent_in_the_end = self.packets_sent
        self.closed = True
        for watch in (self._read, self._write):
            watch.end(ConnectionLost("closed here"))
        return self.socket

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if not self.closed:
            self.detach().close()

    def __del__(self) -> None:
        """The number of a socket that nobody closed will be another's: the loop must not go on watching it."""
        for watch in (self._read, self._write):
            watch.end()


def wake(waiter: "asyncio.Future[None]") -> None:
    """Let it go on, unless it has been cancelled."""
    if not waiter.done():
        waiter.set_result(None)
