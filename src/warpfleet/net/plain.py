"""The pipe over a stream without a tunnel, where both ends want it so. Bytes come behind their number, so that an end
is told from a break; whoever is on the path can read and change them."""

import struct

from warpfleet.net.interfaces import ByteStream
from warpfleet.net.stream_pipe import StreamPipe

_LENGTH = struct.Struct("!I")  # of what follows; 0 at the end
_RUN_MAX_BYTES = 2**30


class PlainPipe(StreamPipe):
    """A pipe over TCP that anybody on the path can read."""

    sealed = False

    def __init__(self, stream: ByteStream, peer: str) -> None:
        super().__init__(stream, peer)
        self._length = b""  # as far as it has come
        self._left = 0  # of the run of bytes that is being read
        self._ended = False

    async def _write(self, data: bytes) -> None:
        for start in range(0, len(data), _RUN_MAX_BYTES):
            run = data if len(data) <= _RUN_MAX_BYTES else data[start : start + _RUN_MAX_BYTES]
            await self._stream.write(_LENGTH.pack(len(run)), run)

    async def _write_eof(self) -> None:
        await self._stream.write(_LENGTH.pack(0))

    async def _read(self, max_bytes: int) -> bytes:
        while not self._left and not self._ended:
            self._length += await self._stream.read(_LENGTH.size - len(self._length))
            if len(self._length) == _LENGTH.size:
                (self._left,) = _LENGTH.unpack(self._length)
                self._length = b""
                self._ended = not self._left
        if self._ended:
            return b""
        data = await self._stream.read(min(max_bytes, self._left))
        self._left -= len(data)
        return data
