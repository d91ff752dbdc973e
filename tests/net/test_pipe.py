"""Pipes: messages and bytes between proved ends, and their end."""

import asyncio

import pytest

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import MALLORY, handshakes
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.pipe import MESSAGE_MAX_BYTES, DatagramPipe, StreamPipe

A, B, C = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000), Endpoint("203.0.113.3", 3000)


def datagram_pipes(internet: Internet) -> tuple[DatagramPipe, DatagramPipe, FakeUdp, FakeUdp]:
    initiator, responder = handshakes()
    initiator.receive(responder.receive(initiator.opener()).reply or b"")
    responder.receive(initiator.take())
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    return DatagramPipe(a, B, initiator), DatagramPipe(b, A, responder, relayed=True), a, b


@virtual_time
async def test_messages_keep_their_boundaries_even_empty_ones() -> None:
    alice, bob, _, _ = datagram_pipes(Internet())
    for message in (b"one", b"", b"\0\0", b"x" * MESSAGE_MAX_BYTES):
        await alice.send(message)
        assert await bob.receive() == message


@virtual_time
async def test_what_a_pipe_says_of_itself() -> None:
    alice, bob, _, _ = datagram_pipes(Internet())
    assert (alice.peer, alice.transport, alice.relayed, alice.local, alice.remote) == (
        "bob",
        Transport.UDP,
        False,
        A,
        B,
    )
    assert repr(bob) == "<pipe to alice over udp, relayed: 203.0.113.2:2000 -> 203.0.113.1:1000>"


@virtual_time
async def test_a_message_that_is_too_long_is_not_sent() -> None:
    alice, _, socket, _ = datagram_pipes(Internet())
    with pytest.raises(ValueError, match="1200"):
        await alice.send(b"x" * (MESSAGE_MAX_BYTES + 1))
    assert socket.sent == []


@virtual_time
async def test_others_and_noise_are_not_heard() -> None:
    internet = Internet()
    alice, bob, _, b = datagram_pipes(internet)
    stranger = FakeUdp(internet, C)
    _, forged = handshakes(responder=MALLORY)
    stranger.send_to(b"\0from a stranger", A)
    b.send_to(forged.close(), A)
    b.send_to(bytes([1]) * FRAME_BYTES, A)
    await bob.send(b"from bob")
    assert await alice.receive() == b"from bob"


@virtual_time
async def test_closing_ends_both_ends_and_their_sockets() -> None:
    internet = Internet()
    alice, bob, a, _ = datagram_pipes(internet)
    reading = asyncio.create_task(bob.receive())
    await alice.close()
    await alice.close()
    with pytest.raises(ConnectionLost):
        await reading
    assert len(a.sent) == 2, "one lost datagram should not leave the peer with an open pipe"
    assert internet.open_sockets() == []
    for pipe in (alice, bob):
        with pytest.raises(ConnectionLost):
            await pipe.send(b"late")
        with pytest.raises(ConnectionLost):
            await pipe.receive()
        await pipe.close()


@virtual_time
async def test_leaving_the_block_closes_the_pipe() -> None:
    internet = Internet()
    alice, bob, _, _ = datagram_pipes(internet)
    async with bob:
        async with alice:
            pass
        with pytest.raises(ConnectionLost):
            await bob.receive()
    assert internet.open_sockets() == []


@virtual_time
async def test_a_stream_pipe_carries_bytes_until_it_is_closed() -> None:
    internet = Internet()
    near, far = internet.stream_pair(A, B)
    alice, bob = StreamPipe(near, peer="bob"), StreamPipe(far, peer="alice")
    assert (alice.transport, alice.relayed, alice.remote) == (Transport.TCP, False, B)
    await alice.send(b"bytes")
    assert await bob.receive() == b"bytes"
    assert now_s() == pytest.approx(DELAY_S)
    await alice.close()
    with pytest.raises(ConnectionLost):
        await bob.receive()
    await bob.close()
    assert internet.open_sockets() == []
