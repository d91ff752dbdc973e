"""Room for sockets, and who waits for it."""

import asyncio
from itertools import count

import pytest

from virtual_time import now_s, virtual_time
from warpfleet.plugins.room import Room


class Attempts:
    """Attempts that each keep so many sockets open for a second."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.peers = count()
        self.open = self.most = 0
        self.order: list[int] = []

    async def run(self, sockets: int, peer: str = "") -> None:
        """One of a peer of its own, unless it is named."""
        async with self.room.take(sockets, peer or f"peer {next(self.peers)}"):
            self.order.append(sockets)
            self.open += sockets
            self.most = max(self.most, self.open)
            await asyncio.sleep(1)
            self.open -= sockets


@virtual_time
async def test_no_more_is_open_at_once_than_there_is_room_for() -> None:
    attempts = Attempts(Room(10))
    await asyncio.gather(*(attempts.run(4) for _ in range(7)))
    assert (attempts.most, attempts.open, now_s()) == (8, 0, 4)


@virtual_time
async def test_first_come_is_first_served() -> None:
    attempts = Attempts(Room(10))
    await asyncio.gather(*(attempts.run(sockets) for sockets in (6, 9, 1, 2, 3)))
    assert attempts.order == [6, 9, 1, 2, 3], "nobody overtakes whoever waits for much"


@virtual_time
async def test_whoever_wants_more_than_there_is_gets_it_alone() -> None:
    attempts = Attempts(Room(10))
    await asyncio.gather(*(attempts.run(sockets) for sockets in (5, 12, 5)))
    assert (attempts.most, now_s()) == (12, 3)


@virtual_time
async def test_who_gives_up_waiting_or_fails_leaves_the_room_to_others() -> None:
    attempts = Attempts(Room(10))
    holding = asyncio.create_task(attempts.run(10))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await attempts.run(1)
    with pytest.raises(RuntimeError):
        async with attempts.room.take(10, "bob"):
            raise RuntimeError
    await attempts.run(10)
    await holding
    assert attempts.order == [10, 10]


@virtual_time
async def test_one_peer_leaves_room_for_others() -> None:
    attempts = Attempts(Room(16))
    greedy = [asyncio.create_task(attempts.run(4, "mallory")) for _ in range(8)]
    await asyncio.sleep(0.5)
    await attempts.run(1, "bob")
    assert now_s() == 1.5
    await asyncio.gather(*greedy)
    assert (attempts.most, now_s()) == (9, 4)
