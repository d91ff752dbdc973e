"""Datagrams over a stream: their boundaries, their end, and a QUIC pipe that moves to them."""

import asyncio

import pytest

from fake_network import FakeUdp, Internet
from sealed import quic_pipes
from virtual_time import virtual_time
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.quic import DatagramPath
from warpfleet.net.stream_datagrams import StreamDatagrams

A, B, C = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000), Endpoint("203.0.113.3", 3000)


def pair(internet: Internet) -> tuple[StreamDatagrams, StreamDatagrams]:
    near, far = internet.stream_pair(A, B)
    return StreamDatagrams(near), StreamDatagrams(far)


@virtual_time
async def test_datagrams_keep_their_boundaries_however_the_stream_cuts_them() -> None:
    near, far = Internet().stream_pair(A, B)
    socket = StreamDatagrams(far)
    sent = [b"one", b"", b"x" * 65_535, b"two"]
    stream = b"".join(len(data).to_bytes(2, "big") + data for data in sent)
    for start in range(0, len(stream), 1000):
        await near.write(stream[start : start + 1000])
    assert [await socket.receive() for _ in sent] == [(data, A) for data in sent]


@virtual_time
async def test_they_go_to_the_other_end_alone_in_their_order() -> None:
    near, far = pair(Internet())
    near.send_to(b"astray", C)
    for number in range(100):
        near.send_to(b"%d" % number, B)
    assert [(await far.receive())[0] for _ in range(100)] == [b"%d" % number for number in range(100)]


@virtual_time
async def test_what_a_blocked_stream_cannot_take_is_lost() -> None:
    internet = Internet()
    near, far = internet.stream_pair(A, B)
    blocked, write = asyncio.Event(), near.write

    async def writing(data: bytes) -> None:
        await blocked.wait()
        await write(data)

    near.write = writing  # type: ignore[method-assign]
    socket, other = StreamDatagrams(near), StreamDatagrams(far)
    for number in range(1000):
        socket.send_to(number.to_bytes(2, "big") + bytes(1000), B)
    blocked.set()
    await asyncio.sleep(1)
    socket.send_to(b"last", B)
    got = [(await other.receive())[0] for _ in range(261)]
    assert [int.from_bytes(data[:2], "big") for data in got] == list(range(261))
    assert await other.receive() == (b"last", A)


@virtual_time
async def test_the_end_of_the_stream_is_that_of_the_socket() -> None:
    internet = Internet()
    near, far = pair(internet)
    waiting = asyncio.create_task(far.receive())
    await asyncio.sleep(0)
    near.close()
    near.send_to(b"late", B)
    with pytest.raises(ConnectionLost):
        await waiting
    far.close()
    assert internet.open_sockets() == []


@virtual_time
async def test_a_pipe_moves_from_a_relay_to_a_stream() -> None:
    internet = Internet()
    alice, bob = await quic_pipes(FakeUdp(internet, C), FakeUdp(internet, Endpoint(C.ip, 1)), relayed=True)
    near, far = pair(internet)
    bob.move(DatagramPath(far, A, transport=Transport.TCP))
    alice.move(DatagramPath(near, B, transport=Transport.TCP))
    assert (alice.path.transport, alice.path.relayed, alice.path.remote) == (Transport.TCP, False, B)
    await alice.send(bytes(100_000))
    await alice.send_eof()
    assert sum([len(chunk) async for chunk in bob]) == 100_000
    await asyncio.gather(alice.close(), bob.close())
    assert internet.open_sockets() == []
