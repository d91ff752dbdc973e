"""The policy `relay_first` in the simulated laboratory: first bytes over a relay, and the move to a direct path."""

import asyncio
import random
from collections.abc import Iterator

import pytest

from nat_table import MATRIX, PATH_RTT_MS, SIGNAL_RTT_MS, Row, Way, of_presets
from warpfleet.configs.topology import PRESETS
from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Policy, Side, Transport
from warpfleet.core.consent import EXPIRY_S, HOLD_S, LEFT_AFTER_S, LEFT_IN_USE_AFTER_S
from warpfleet.lab.sim.world import World
from warpfleet.net.interfaces import Pipe

ROWS = tuple(of_presets())
# To the relay and on to the peer, and back: as long as a path between two hosts.
RELAY_RTT_MS = PATH_RTT_MS
MOVES = ("symmetric_random", "port_restricted")  # a pair that has only guesses, which take longer than a relay


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(MATRIX, seed=1) as made:
        yield made


def first_byte_bound_ms(row: Row) -> float:
    blocked = any(PRESETS[name] and PRESETS[name].udp_blocked for name in (row.initiator, row.responder[:-5]))  # type: ignore[union-attr]
    return 2 * SIGNAL_RTT_MS + (5 if blocked else 3) * RELAY_RTT_MS + 60.0


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_first_byte_comes_soon_and_the_direct_path_where_there_is_one(world: World, row: Row) -> None:
    found = world.connect(row.initiator, row.responder, policy=Policy.RELAY_FIRST)
    assert found.outcome is row.way.outcome
    assert found.first_byte_ms is not None
    assert found.first_byte_ms <= first_byte_bound_ms(row)
    assert found.plugin in row.way.plugins
    attempts = [a for a in world.rows.attempts_ended if a.connection_id == found.connection_id]
    won = {a.plugin for a in attempts if a.side is Side.INITIATOR and a.outcome is AttemptOutcome.WON}
    assert won == ({"turn", found.plugin} if found.upgraded_ms else {found.plugin})


@pytest.mark.parametrize("row", [row for row in ROWS if row.way is Way.GUESS], ids=str)
def test_what_takes_longer_than_a_relay_is_moved_to(world: World, row: Row) -> None:
    found = world.connect(row.initiator, row.responder, policy=Policy.RELAY_FIRST)
    assert found.outcome is ConnectionOutcome.DIRECT
    assert found.connect_ms is not None
    assert found.first_byte_ms is not None
    assert found.upgraded_ms is not None
    assert found.connect_ms < found.first_byte_ms
    assert found.connect_ms < found.upgraded_ms
    assert found.rtt_ms == pytest.approx(PATH_RTT_MS, rel=0.1)


def test_one_seed_has_one_outcome() -> None:
    def rows() -> list[object]:
        with World(MATRIX, seed=5) as made:
            found = made.connect(MOVES[0], MOVES[1] + "_peer", policy=Policy.RELAY_FIRST)
            return [found, *made.rows.attempts_ended]

    assert rows() == rows()


@pytest.fixture
def pipes() -> Iterator[tuple[World, Pipe, Pipe]]:
    """The two ends of a pipe that has moved to a direct path, and their world."""
    initiator, responder = MOVES[0], MOVES[1] + "_peer"
    with World(MATRIX, seed=1, holds=True) as made:
        found = made.connect(initiator, responder, policy=Policy.RELAY_FIRST)
        assert found.upgraded_ms is not None
        yield made, made.pipes[initiator], made.pipes[responder]


async def _crosses(sender: Pipe, receiver: Pipe, data: bytes = b"hello") -> float:
    """How many seconds it takes until all of it is there."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await sender.send(data)
    received = b""
    async with asyncio.timeout(60):
        while len(received) < len(data):
            received += await receiver.recv()
    assert received == data
    return loop.time() - began_s


def relayed(*pipes: Pipe) -> list[bool]:
    return [pipe.path.relayed for pipe in pipes]


def test_both_ends_have_moved(pipes: tuple[World, Pipe, Pipe]) -> None:
    world, alice, bob = pipes
    assert relayed(alice, bob) == [False, False]
    assert alice.path.through is None
    assert world.run(_crosses(alice, bob)) == pytest.approx(0.04, rel=0.1)


def test_where_the_direct_path_dies_bytes_go_on_over_the_relay(pipes: tuple[World, Pipe, Pipe]) -> None:
    world, alice, bob = pipes
    world.cut(MOVES[0], MOVES[1] + "_peer")
    assert world.run(_crosses(alice, bob)) <= LEFT_IN_USE_AFTER_S + 2.0, "and QUIC sends again what was lost"
    world.wait(LEFT_AFTER_S)
    assert relayed(alice, bob) == [True, True]
    assert world.run(_crosses(bob, alice)) == pytest.approx(0.04, rel=0.1)
    world.wait(EXPIRY_S)
    assert world.run(_crosses(alice, bob)) == pytest.approx(0.04, rel=0.1), "the relay was kept"


def test_a_path_that_comes_back_is_used_again_and_not_at_once(pipes: tuple[World, Pipe, Pipe]) -> None:
    world, alice, bob = pipes
    world.cut(MOVES[0], MOVES[1] + "_peer")
    world.wait(LEFT_AFTER_S)
    world.mend()
    world.wait(HOLD_S)
    assert relayed(alice, bob) == [True, True]
    world.wait(15)
    assert relayed(alice, bob) == [False, False]


def test_a_pipe_moves_to_a_tcp_stream_where_that_is_what_comes_through() -> None:
    with World(MATRIX, seed=1, holds=True) as world:
        ends = "udp_blocked", "public_peer"
        world.cut(*ends)

        async def mend_soon() -> None:
            asyncio.get_running_loop().call_later(0.7, world.mend)  # before the SYN is sent again

        world.run(mend_soon())
        found = world.connect(*ends, policy=Policy.RELAY_FIRST)
        assert (found.plugin, found.transport) == ("direct_connect", Transport.TCP)
        assert found.upgraded_ms is not None
        alice, bob = (world.pipes[end] for end in ends)
        assert (relayed(alice, bob), bob.path.transport) == ([False, False], Transport.TCP)
        assert world.run(_crosses(alice, bob, bytes(100_000))) < 1.0
        world.cut(*ends)
        assert world.run(_crosses(bob, alice)) <= LEFT_IN_USE_AFTER_S + 2.0
        world.wait(LEFT_AFTER_S)
        assert relayed(alice, bob) == [True, True]


def test_a_stream_crosses_three_moves_each_way_whole(pipes: tuple[World, Pipe, Pipe]) -> None:
    world, alice, bob = pipes
    there, back = (random.Random(seed).randbytes(1_500_000) for seed in (1, 2))

    async def exchange() -> None:
        async def slowly(pipe: Pipe, data: bytes) -> None:
            for start in range(0, len(data), 10_000):
                await pipe.send(data[start : start + 10_000])
                await asyncio.sleep(1.0)

        async def whole(pipe: Pipe, size: int) -> bytes:
            data = bytearray()
            while len(data) < size:
                data += await pipe.recv()
            return bytes(data)

        async def flap() -> None:
            for hold_s in (HOLD_S, 2 * HOLD_S, 4 * HOLD_S):
                world.cut(MOVES[0], MOVES[1] + "_peer")
                await asyncio.sleep(LEFT_AFTER_S)
                seen.append(relayed(alice, bob))
                world.mend()
                await asyncio.sleep(hold_s + 15)
                seen.append(relayed(alice, bob))

        seen: list[list[bool]] = []
        got_there, got_back, *_ = await asyncio.gather(
            whole(bob, len(there)), whole(alice, len(back)), slowly(alice, there), slowly(bob, back), flap()
        )
        assert seen == 3 * [[True, True], [False, False]]
        assert (got_there == there, got_back == back) == (True, True)

    world.run(exchange())
