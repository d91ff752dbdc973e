"""Datagrams over a TCP stream, for a pipe that has moved to one: each behind its length, as RFC 4571 frames them."""

import asyncio
import struct
from collections import deque

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ByteStream, ConnectionLost

_LENGTH = struct.Struct("!H")
_WAITING_MAX = 256  # datagrams that the stream has not taken: one too many is lost, which tells QUIC to slow down


class StreamDatagrams:
    """A stream that behaves like a UDP socket with one peer."""

    through = None

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._waiting: deque[bytes] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def local(self) -> Endpoint:
        """The local transport address."""
        return self.stream.local

    @property
    def packets_sent(self) -> int | None:
        """How many segments the stream has sent."""
        return self.stream.packets_sent

    def send_to(self, data: bytes, _remote: Endpoint) -> None:
        """Send one datagram to the stream's other end."""
        if self._closed or len(self._waiting) >= _WAITING_MAX:
            return
        self._waiting.append(_LENGTH.pack(len(data)) + data)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram, and the stream's other end. ConnectionLost once the stream has ended."""
        [size] = _LENGTH.unpack(await self.stream.read_exactly(_LENGTH.size))
        return await self.stream.read_exactly(size), self.stream.remote

    def close(self) -> None:
        """Close the stream; idempotent."""
        self._closed = True
        if self._writing:
            self._writing.cancel()
        self.stream.close()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = b"".join(self._waiting)
                self._waiting.clear()
                await self.stream.write(batch)
        except ConnectionLost:
            self.close()
        finally:
            self._writing = None
