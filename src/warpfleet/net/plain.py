"""The pipe over a stream without a tunnel, where both ends want it so. Its end is that of TCP, and a break is a reset;
whoever is on the path can read the bytes, change them and end them."""

from warpfleet.net.interfaces import ByteStream, StreamEnded
from warpfleet.net.stream_pipe import StreamPipe


class PlainPipe(StreamPipe):
    """A pipe over TCP that anybody on the path can read."""

    sealed = False

    def __init__(self, stream: ByteStream, peer: str) -> None:
        super().__init__(stream, peer)
        stream.reset_on_close()

    async def _write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def _write_eof(self) -> None:
        self._stream.write_eof()

    async def _read(self, max_bytes: int) -> bytes:
        try:
            return await self._stream.read(max_bytes)
        except StreamEnded:
            return b""
