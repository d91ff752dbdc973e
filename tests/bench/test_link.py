"""What is measured over a link, over links of this test's own."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.link import Answers, Link, first_echo, round_trip_ms, serve, throughput_mb_s


class Memory(Link):
    """A link within one program. Of its messages those that `loses` names, counted from 0, are lost."""

    how = "memory"

    def __init__(
        self, inbox: asyncio.Queue[bytes], outbox: asyncio.Queue[bytes], *, stream: bool, loses: frozenset[int]
    ) -> None:
        self.stream = stream
        self.sent = 0
        self._inbox = inbox
        self._outbox = outbox
        self._loses = loses

    async def send(self, data: bytes) -> None:
        if self.sent not in self._loses:
            pieces = [data[:5], data[5:]] if self.stream else [data]  # a stream keeps no boundaries
            for piece in filter(None, pieces):
                self._outbox.put_nowait(piece)
        self.sent += 1
        await asyncio.sleep(0)

    async def receive(self) -> bytes:
        return await self._inbox.get()

    async def close(self) -> None:
        self._outbox.put_nowait(b"")


@asynccontextmanager
async def linked(*, stream: bool, loses: frozenset[int] = frozenset()) -> AsyncIterator[Memory]:
    """Our end of a link whose other end is served."""
    here, there = asyncio.Queue[bytes](), asyncio.Queue[bytes]()
    ours = Memory(here, there, stream=stream, loses=loses)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(Memory(there, here, stream=stream, loses=frozenset())))
        yield ours
        await ours.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_first_byte_and_round_trip(stream: bool) -> None:
    async with linked(stream=stream) as link:
        await first_echo(link)
        assert 0 < await round_trip_ms(link, 3) < 1_000


async def test_a_lost_message_is_sent_again() -> None:
    async with linked(stream=False, loses=frozenset({0})) as link:
        await first_echo(link)
        assert link.sent == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_throughput_is_what_arrives(stream: bool) -> None:
    async with linked(stream=stream) as link:
        assert await throughput_mb_s(link) > 0


async def test_a_link_that_ends_gives_no_first_byte() -> None:
    inbox = asyncio.Queue[bytes]()
    inbox.put_nowait(b"")
    with pytest.raises(ConnectionError):
        await first_echo(Memory(inbox, asyncio.Queue(), stream=True, loses=frozenset()))


def test_an_echo_is_what_came() -> None:
    answers = Answers()
    assert answers.take(b"e?", 0.0) == b"e?"
    assert answers.take(b"rest", 1.0) == b"rest"


def test_a_count_leaves_the_question_out() -> None:
    answers = Answers()
    assert answers.take(b"bbbb", 10.0) == b""
    assert answers.take(b"bbbb?", 12.0) == struct.pack("!Qd", 8, 2.0)
    assert answers.take(b"?", 15.0) == struct.pack("!Qd", 8, 2.0), "asked again, nothing new came"
