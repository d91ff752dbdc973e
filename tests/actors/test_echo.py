"""Timing a pipe against its echo, over a network that loses and a peer that falls silent."""

import asyncio

import pytest

from fake_network import DELAY_S, Internet
from virtual_time import START_S, now_s, virtual_time
from warpfleet.actors.echo import echo, measure
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.pipe import StreamPipe

A, B = Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2)


class DatagramPair:
    """A UDP pipe in memory; the first datagrams get lost."""

    transport = Transport.UDP

    def __init__(self, lost: int = 0) -> None:
        self.lost, self.closed, self.sent = lost, False, 0
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.other = self

    async def send(self, data: bytes) -> None:
        self.sent += 1
        if self.lost:
            self.lost -= 1
        else:
            asyncio.get_running_loop().call_later(DELAY_S, self.other.queue.put_nowait, data)

    async def receive(self) -> bytes:
        return await self.queue.get()

    async def close(self) -> None:
        self.closed = True


def datagram_pipes(lost: int = 0) -> tuple[DatagramPair, DatagramPair]:
    a, b = DatagramPair(lost), DatagramPair()
    a.other, b.other = b, a
    return a, b


@virtual_time
async def test_three_rounds_over_a_stream() -> None:
    near, far = Internet().stream_pair(A, B)
    echoing = asyncio.create_task(echo(StreamPipe(far, peer="alice")))
    pipe = StreamPipe(near, peer="bob")
    measured = await measure(pipe)
    assert measured is not None
    assert measured.first_byte_at_s - START_S == pytest.approx(2 * DELAY_S)
    assert measured.rtt_ms == pytest.approx(2000 * DELAY_S)
    assert now_s() == pytest.approx(6 * DELAY_S)
    await pipe.close()
    await echoing
    assert far.closed


@virtual_time
async def test_a_lost_datagram_is_sent_again() -> None:
    a, b = datagram_pipes(lost=2)
    echoing = asyncio.create_task(echo(b))  # type: ignore[arg-type]
    measured = await measure(a)  # type: ignore[arg-type]
    assert measured is not None
    assert measured.first_byte_at_s - START_S == pytest.approx(0.5 + 2 * DELAY_S)
    assert measured.rtt_ms == pytest.approx(2000 * DELAY_S), "the median forgives it"
    echoing.cancel()


@virtual_time
async def test_a_peer_that_never_echoes_costs_one_round() -> None:
    a, _ = datagram_pipes()
    assert await measure(a) is None  # type: ignore[arg-type]
    assert now_s() == pytest.approx(2)


@virtual_time
async def test_a_stream_that_breaks_after_the_first_byte_has_still_been_measured() -> None:
    near, far = Internet().stream_pair(A, B)

    async def echo_once() -> None:
        await far.write(await far.read(100))
        far.close()

    echoing = asyncio.create_task(echo_once())
    measured = await measure(StreamPipe(near, peer="bob"))
    assert measured is not None
    assert measured.rtt_ms == pytest.approx(2000 * DELAY_S)
    await echoing


@virtual_time
async def test_the_echo_ends_when_nothing_comes_and_closes_its_pipe() -> None:
    near, far = Internet().stream_pair(A, B)
    await echo(StreamPipe(far, peer="alice"))
    assert now_s() == pytest.approx(15)
    with pytest.raises(ConnectionLost):
        await near.read(1)
