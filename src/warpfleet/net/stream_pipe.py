"""What the pipes over a stream share: how they end, and that one task writes and one reads at a time."""

import asyncio
import contextlib
from abc import abstractmethod

from warpfleet.core.combo import Transport
from warpfleet.net.interfaces import ByteStream, ConnectionLost, PipePath
from warpfleet.net.pipe import RECV_BYTES, BasePipe

_FLUSH_S = 2.0  # a peer that takes nothing for so long is not waited for
# A stream that is closed while the peer still sends is reset, and may take with it what the peer has not read yet: so
# its end is waited for, as long as it says something (a round trip of a slow path passes before it knows), up to 2 s.
_SILENCE_S, _FAREWELL_S = 0.25, 2.0


class StreamPipe(BasePipe):
    """A pipe over TCP."""

    sealed = True

    def __init__(self, stream: ByteStream, peer: str) -> None:
        super().__init__(peer)
        self._stream = stream
        self._writing, self._reading = asyncio.Lock(), asyncio.Lock()
        self._eof_sent = False

    @property
    def path(self) -> PipePath:
        """What carries the bytes."""
        return PipePath(Transport.TCP, self._stream.local, self._stream.remote, sealed=self.sealed)

    async def _send(self, data: bytes) -> None:
        async with self._writing:
            if self._eof_sent:
                raise ConnectionLost("the end was sent")
            await self._write(data)

    async def send_eof(self) -> None:
        """Send no more; the peer reads what was sent before, and then the end. Idempotent."""
        async with self._writing:
            if not self._eof_sent:
                self._eof_sent = True
                await self._write_eof()

    async def _close(self) -> None:
        with contextlib.suppress(ConnectionLost, TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self.send_eof()
            async with asyncio.timeout(_FAREWELL_S):
                while await asyncio.wait_for(self._recv(RECV_BYTES), _SILENCE_S):
                    continue
        await self._end()

    def _break(self, reason: ConnectionLost) -> None:
        self._stream.close()

    async def _end(self) -> None:
        self._stream.close()

    async def _recv(self, max_bytes: int) -> bytes:
        async with self._reading:  # who still receives goes on while the pipe is being closed
            return await self._read(max_bytes)

    @abstractmethod
    async def _write(self, data: bytes) -> None:
        """Send bytes; none where there are none."""

    @abstractmethod
    async def _write_eof(self) -> None:
        """Say that nothing more follows."""

    @abstractmethod
    async def _read(self, max_bytes: int) -> bytes:
        """Receive some bytes; none once the peer has said that nothing more follows, each time."""
