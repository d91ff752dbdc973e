"""What is done with a link, whoever made it: the first byte, the round trip, the throughput. Standard library alone."""

import asyncio
import secrets
import statistics
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

_TOKEN_BYTES = 16
_RESEND_S = 0.25  # a lost datagram is sent again, as warpfleet's own measurement does
_ANSWER_S = 2.0  # for one round, as in warpfleet's own measurement: of the slowest path, a dozen round trips
_BULK_S = 1.0
_CHUNK_BYTES = 65536  # of a stream
_ECHO, _BULK, _COUNT = b"e", b"b", b"?"
_REPORT = struct.Struct("!Qd")  # bytes, seconds


class Link(ABC):
    """A connected way to a peer. `how` names what made it; a link that is no `stream` carries messages."""

    how: str
    relayed = False
    stream = False
    message_bytes = 1200  # what every contender's messages may have

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send some bytes, or one message."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Receive some bytes, or one message. OSError, or nothing of a stream, where it has ended."""

    @abstractmethod
    async def close(self) -> None:
        """Let it go."""


class Answers:
    """What the responder's end of one link answers. The first byte decides: what follows is echoed, or counted."""

    def __init__(self) -> None:
        self._mode = b""
        self._bytes = 0
        self._began_s = 0.0
        self._latest_s = 0.0

    def take(self, data: bytes, now_s: float) -> bytes:
        """The answer to some bytes, or to one message; nothing where none is due."""
        if not self._mode:
            self._mode, self._began_s = data[:1], now_s
        if self._mode == _ECHO:
            return data
        asked = data.endswith(_COUNT)
        payload_bytes = len(data) - len(_COUNT) if asked else len(data)
        if payload_bytes:
            self._bytes += payload_bytes
            self._latest_s = now_s
        return _REPORT.pack(self._bytes, self._latest_s - self._began_s) if asked else b""


async def serve(link: Link) -> None:
    """Answer what comes over a link until it ends."""
    answers = Answers()
    try:
        while data := await link.receive():
            if answer := answers.take(data, time.monotonic()):
                await link.send(answer)
    except OSError:
        pass
    finally:
        await link.close()


async def first_echo(link: Link) -> None:
    """Return once a token came back. TimeoutError where none does in time."""
    token = _ECHO + secrets.token_bytes(_TOKEN_BYTES - 1)
    await _ask(link, token, lambda received: received.endswith(token))


async def round_trip_ms(link: Link, rounds: int) -> float:
    """The median time in which a token comes back."""
    times_ms = []
    for _ in range(rounds):
        began_s = time.monotonic()
        await first_echo(link)
        times_ms.append((time.monotonic() - began_s) * 1000)
    return statistics.median(times_ms)


async def throughput_mb_s(link: Link) -> float:
    """Megabytes a second that arrive at the other end of a fresh link, while we send as fast as it takes them."""
    data = _BULK * (_CHUNK_BYTES if link.stream else link.message_bytes)
    end_s = time.monotonic() + _BULK_S
    while time.monotonic() < end_s:
        await link.send(data)
        if not link.stream:
            await asyncio.sleep(0)  # a datagram is never waited for: let the loop send
    report = await _ask(link, _COUNT, lambda received: len(received) >= _REPORT.size)
    total_bytes, seconds = _REPORT.unpack(report[: _REPORT.size])
    return float(total_bytes / seconds / 1e6) if seconds else 0.0


async def _ask(link: Link, question: bytes, answered: Callable[[bytes], bool]) -> bytes:
    """What came back for a question, which is asked again where messages may be lost."""
    received = b""
    async with asyncio.timeout(_ANSWER_S):
        await link.send(question)
        while not answered(received):
            try:
                async with asyncio.timeout(None if link.stream else _RESEND_S):
                    data = await link.receive()
            except TimeoutError:
                await link.send(question)
                continue
            if not data:
                raise ConnectionError("the link ended")
            received = received + data if link.stream else data
    return received
