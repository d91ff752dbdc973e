"""The pipe over a stream without a tunnel, where both ends want it so. Its end is that of TCP, and a break is a reset;
whoever is on the path can read the bytes, change them and end them."""

from warpfleet.net.interfaces import ByteStream, ConnectionLost, StreamEnded
from warpfleet.net.stream_pipe import StreamPipe


class PlainPipe(StreamPipe):
    """A pipe over TCP that anybody on the path can read."""

    sealed = False

    def __init__(self, stream: ByteStream, peer: str) -> None:
        super().__init__(stream, peer)
        stream.reset_on_close()

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except ConnectionLost:
            raise  # what the peer said before is still there to be read
        except BaseException:
            self._stream.close()  # part of it may be on its way, nobody knows how much: that is a break
            raise

    async def _write_eof(self) -> None:
        self._stream.write_eof()

    async def _read(self, max_bytes: int) -> bytes:
        try:
            return await self._stream.read(max_bytes)
        except StreamEnded:
            return b""
