"""A stream that carries datagrams, each behind its length (RFC 4571), so that a QUIC pipe may move to it."""

import asyncio
import contextlib
import struct

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ByteStream, ConnectionLost

_LENGTH = struct.Struct("!H")
_READ_BYTES = 65_536
_WAITING_MAX_BYTES = 262_144  # beyond the kernel's own buffer: what a stream cannot take is lost, as on any path


class StreamDatagrams:
    """A datagram socket that reaches the other end of its stream alone."""

    through = None

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._received = bytearray()
        self._waiting = bytearray()
        self._writing: asyncio.Task[None] | None = None

    @property
    def local(self) -> Endpoint:
        """The local transport address."""
        return self.stream.local

    @property
    def remote(self) -> Endpoint:
        """Where datagrams can be sent to, and come from."""
        return self.stream.remote

    @property
    def packets_sent(self) -> int | None:
        """How many segments have been sent."""
        return self.stream.packets_sent

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram; it is lost where too many wait, where the stream has ended, or where it goes elsewhere."""
        if remote != self.remote or len(self._waiting) + len(data) > _WAITING_MAX_BYTES:
            return
        self._waiting += _LENGTH.pack(len(data)) + data
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram, and the stream's other end. ConnectionLost once the stream has ended."""
        while True:
            if len(self._received) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
                if len(self._received) >= end:
                    data = bytes(self._received[_LENGTH.size : end])
                    del self._received[:end]
                    return data, self.remote
            self._received += await self.stream.read(_READ_BYTES)

    def close(self) -> None:
        """Close; idempotent. A pending `receive` raises ConnectionLost."""
        if self._writing:
            self._writing.cancel()
        self.stream.close()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while self._waiting:
                data, self._waiting = bytes(self._waiting), bytearray()
                await self.stream.write(data)
