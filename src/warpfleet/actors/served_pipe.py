"""A pipe that ends in another process of this host: its bytes over a Unix socket pair, and words beside them."""

import asyncio
import contextlib
import socket

from warpfleet.actors.words import Word, Words
from warpfleet.net.interfaces import ConnectionLost, Pipe, PipePath
from warpfleet.net.pipe import RECV_BYTES, BasePipe

_CHUNK_BYTES = 65_536  # written at once: what waits in this process beside the kernel's own buffer
_FLUSH_S = 5.0  # a peer that takes nothing for so long is not waited for
_CLOSE_S = 10.0  # for the process at the other end to flush its pipe, and to say that it has closed it
_GONE = "the process that serves this pipe has died"


class _State:
    """What has been said of a pipe. Apart from it, so that whoever listens does not keep it alive."""

    def __init__(self, path: PipePath) -> None:
        self.path = path
        self.ended = asyncio.Event()  # its bytes, in good order or not
        self.lost: ConnectionLost | None = None

    async def listen(self, words: Words) -> None:
        while said := await words.hear():
            if said.word is Word.PATH and said.path:
                self.path = said.path
            elif said.word is Word.END:
                self.ended.set()
            elif said.word is Word.LOST:
                self.lost = self.lost or ConnectionLost(said.detail)
                self.ended.set()
        if not self.ended.is_set():
            self.lost = self.lost or ConnectionLost(_GONE)
            self.ended.set()


class ServedPipe(BasePipe):
    """The end that a program has."""

    def __init__(
        self, peer: str, path: PipePath, words: Words, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(peer)
        self._words = words
        self._reader = reader
        self._writer = writer
        self._state = _State(path)
        self._listening = asyncio.create_task(self._state.listen(words))
        self._eof_sent = False

    @classmethod
    async def over(cls, peer: str, path: PipePath, words: Words, given: socket.socket) -> "ServedPipe":
        """Over one end of a socket pair, which is owned from here on."""
        return cls(peer, path, words, *await asyncio.open_unix_connection(sock=given, limit=RECV_BYTES))

    @property
    def path(self) -> PipePath:
        """What carries the bytes now, beyond this host."""
        return self._state.path

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._check_sending()
            self._writer.write(left[:_CHUNK_BYTES])
            left = left[_CHUNK_BYTES:]
            try:
                await self._writer.drain()
            except OSError:
                raise await self._reason() from None

    async def send_eof(self) -> None:
        """Send no more; the peer reads what was sent before, and then the end. Idempotent."""
        if not self._eof_sent:
            self._check_sending()
            self._eof_sent = True
            self._words.say(Word.END)
            self._writer.write_eof()

    async def _recv(self, max_bytes: int) -> bytes:
        with contextlib.suppress(OSError):
            if data := await self._reader.read(max_bytes):
                return data
        await self._state.ended.wait()
        if self._closing or self._state.lost:
            raise self._state.lost or ConnectionLost("closed here")
        return b""

    async def _close(self) -> None:
        with contextlib.suppress(ConnectionLost, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.send_eof()
                self._words.say(Word.CLOSE)
                await asyncio.shield(self._listening)  # the other end says nothing more once it has closed the pipe
        await self._end()

    async def _end(self) -> None:
        self._let_go()
        await asyncio.gather(self._listening, return_exceptions=True)

    def _break(self, reason: ConnectionLost) -> None:
        self._state.lost = self._state.lost or reason
        self._let_go()

    def _let_go(self) -> None:
        self._listening.cancel()
        self._state.ended.set()
        self._words.close()
        self._writer.transport.abort()

    def __del__(self) -> None:
        """A pipe that the program has dropped unclosed is broken off."""
        if self._closing is None and not self._listening.get_loop().is_closed():
            self._let_go()

    def _check_sending(self) -> None:
        if self._closing and self._closing is not asyncio.current_task():
            raise ConnectionLost("closed here")
        if self._eof_sent:
            raise ConnectionLost("the end was sent")
        if self._state.lost:
            raise self._state.lost

    async def _reason(self) -> ConnectionLost:
        """Why nothing more can be sent: it is said before the socket pair is closed, or nothing is."""
        await self._state.ended.wait()
        return self._state.lost or ConnectionLost(_GONE)


async def serve(pipe: Pipe, words: Words, given: socket.socket) -> None:
    """The end in the process that has the pipe: carry its bytes until the program closes it, or is gone; then the pipe
    is closed, or broken off. What is told to `words` of the path is for the caller to say."""
    reader, writer = await asyncio.open_unix_connection(sock=given, limit=RECV_BYTES)
    ended = asyncio.Event()
    orders = asyncio.create_task(_orders(words, ended))
    outward = asyncio.create_task(_outward(pipe, reader, ended))
    inward = asyncio.create_task(_inward(pipe, words, writer))
    closes = False
    try:
        running = {orders, outward, inward}
        while orders in running and not any(_failed(task) for task in (outward, inward)):
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        if broken := _failed(outward) or _failed(inward):
            words.say(Word.LOST, str(broken))
        elif orders.result():
            closes = True
            await asyncio.wait({outward}, timeout=_FLUSH_S)
    finally:
        for task in (orders, outward, inward):
            task.cancel()
        await asyncio.gather(orders, outward, inward, return_exceptions=True)
        try:
            await (pipe.close() if closes else pipe.abort())
        finally:
            writer.close()
            words.close()


def _failed(task: "asyncio.Task[None]") -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


async def _orders(words: Words, ended: asyncio.Event) -> bool:
    """Whether the program closes the pipe in good order."""
    while said := await words.hear():
        if said.word is Word.END:
            ended.set()
        elif said.word is Word.CLOSE:
            return True
    return False


async def _outward(pipe: Pipe, reader: asyncio.StreamReader, ended: asyncio.Event) -> None:
    while data := await reader.read(RECV_BYTES):
        await pipe.send(data)
    await ended.wait()  # else the program is gone, as its orders tell
    await pipe.send_eof()


async def _inward(pipe: Pipe, words: Words, writer: asyncio.StreamWriter) -> None:
    async for data in pipe:
        writer.write(data)
        await writer.drain()
    words.say(Word.END)
    writer.write_eof()
