"""A pipe with a relayed and a direct path: which one it sends on, and when, and what is no consent."""

import asyncio
import random

import pytest

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import MALLORY, handshakes
from sealed import quic_pipes
from virtual_time import now_s, virtual_time
from warpfleet.core.consent import EXPIRY_S, HOLD_S, LEFT_AFTER_S, LEFT_IN_USE_AFTER_S
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import NONCE_BYTES, Frame, FrameType, is_frame
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.upkeep import Upkeep

A, B = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000)
RELAY_A, RELAY_B = Endpoint("198.51.100.9", 1), Endpoint("198.51.100.9", 2)


class Bench:
    """Alice's and Bob's end of a pipe that has moved to a direct path."""

    alice: QuicPipe
    bob: QuicPipe

    def __init__(self) -> None:
        self.internet = Internet()
        self.near, self.far = FakeUdp(self.internet, A), FakeUdp(self.internet, B)
        self.relay, self.relay_back = FakeUdp(self.internet, RELAY_A), FakeUdp(self.internet, RELAY_B)

    async def open(self, *, answer: bytes = b"") -> None:
        self.alice, self.bob = await quic_pipes(self.relay, self.relay_back, relayed=True)
        chance = random.Random(1).random
        Upkeep(self.alice, DatagramPath(self.near, B), chance)
        Upkeep(self.bob, DatagramPath(self.far, A, answer=answer), chance)

    def cut(self) -> None:
        self.internet.loses = lambda _data, source, target: {source, target} == {A, B}

    def mend(self) -> None:
        self.internet.loses = lambda _data, _source, _target: False

    def relayed(self) -> list[bool]:
        return [self.alice.path.relayed, self.bob.path.relayed]

    async def crosses(self) -> float:
        """How long a few bytes take, in seconds."""
        began_s = now_s()
        await self.alice.send(b"hello")
        assert await self.bob.recv() == b"hello"
        return now_s() - began_s


def checks(socket: FakeUdp) -> list[Frame]:
    frames = [Frame.parse(data) for data, _ in socket.sent if is_frame(data)]
    return [frame for frame in frames if frame.type is FrameType.CHECK]


@virtual_time
async def test_both_ends_send_on_the_direct_path_and_check_both() -> None:
    bench = Bench()
    await bench.open()
    assert bench.relayed() == [False, False]
    assert await bench.crosses() == pytest.approx(DELAY_S)
    await asyncio.sleep(60)
    for socket in (bench.near, bench.far, bench.relay):
        assert 8 <= len(checks(socket)) <= 14
    asked = [frame.initiator_nonce for socket in (bench.near, bench.relay) for frame in checks(socket)]
    assert len(set(asked)) == len(asked), "no challenge is used twice"
    assert bench.relayed() == [False, False]


@virtual_time
async def test_a_dead_path_is_left_by_who_uses_it_and_then_by_who_does_not() -> None:
    bench = Bench()
    await bench.open()
    bench.cut()
    assert await bench.crosses() <= LEFT_IN_USE_AFTER_S + 2.0
    await asyncio.sleep(LEFT_AFTER_S)
    assert bench.relayed() == [True, True]
    assert await bench.crosses() == pytest.approx(DELAY_S)


@virtual_time
async def test_a_path_that_is_good_again_for_a_while_is_used_again() -> None:
    bench = Bench()
    await bench.open()
    bench.cut()
    await asyncio.sleep(LEFT_AFTER_S)
    bench.mend()
    await asyncio.sleep(HOLD_S)
    assert bench.relayed() == [True, True]
    await asyncio.sleep(15)
    assert bench.relayed() == [False, False]


@virtual_time
async def test_a_path_without_consent_is_closed() -> None:
    bench = Bench()
    await bench.open()
    bench.cut()
    await asyncio.sleep(EXPIRY_S + 7)
    assert (bench.near.closed, bench.far.closed) == (True, True)
    bench.mend()
    await asyncio.sleep(60)
    assert bench.relayed() == [True, True]
    assert await bench.crosses() == pytest.approx(DELAY_S)


@virtual_time
async def test_a_direct_socket_that_ends_leaves_the_relay() -> None:
    bench = Bench()
    await bench.open()
    bench.near.close()
    await asyncio.sleep(0.1)
    assert bench.alice.path.relayed
    sent = len(checks(bench.relay))
    await asyncio.sleep(60)
    assert await bench.crosses() == pytest.approx(DELAY_S)
    assert len(checks(bench.relay)) == sent, "there is nothing to return to"


@virtual_time
async def test_only_the_peers_own_answer_to_this_check_is_consent() -> None:
    bench = Bench()
    await bench.open()
    stranger, _ = handshakes(initiator=MALLORY)
    bench.internet.loses = lambda data, source, target: {source, target} == {A, B} and is_frame(data)

    async def pretend() -> None:
        """Somebody on the way says what he can say: his own answer, a wrong one, and whatever he has heard before."""
        while True:
            bench.near.arrive(stranger.check(bytes(NONCE_BYTES)), B)
            for frame in [data for data, _ in (*bench.relay_back.sent, *bench.relay.sent) if is_frame(data)]:
                bench.near.arrive(frame, B)
            await asyncio.sleep(0.2)

    pretending = asyncio.create_task(pretend())
    await asyncio.sleep(LEFT_AFTER_S)
    assert bench.alice.path.relayed
    pretending.cancel()


@virtual_time
async def test_late_frames_of_the_proof_are_answered_on_the_path_that_it_was_made_on() -> None:
    bench = Bench()
    await bench.open(answer=b"agreed")
    mover, _ = handshakes(attempt_id="99" * 16)
    bench.near.send_to(mover.move("turn"), B)
    await asyncio.sleep(1)
    assert (b"agreed", A) in bench.far.sent


@virtual_time
async def test_a_pipe_that_is_closed_moves_nowhere() -> None:
    bench = Bench()
    alice, bob = await quic_pipes(bench.relay, bench.relay_back, relayed=True)
    closing = asyncio.gather(alice.close(), bob.close())
    await asyncio.sleep(0)
    with pytest.raises(ConnectionLost):
        Upkeep(alice, DatagramPath(bench.near, B), random.Random(1).random)
    await closing
    await asyncio.sleep(30)
    assert bench.near.sent == []


@virtual_time
async def test_the_end_of_the_pipe_is_the_end_of_its_paths() -> None:
    bench = Bench()
    await bench.open()
    await asyncio.gather(bench.alice.close(), bench.bob.close())
    assert bench.internet.open_sockets() == []
    sent = len(bench.near.sent)
    await asyncio.sleep(30)
    assert len(bench.near.sent) == sent
