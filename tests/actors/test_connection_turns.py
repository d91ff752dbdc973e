"""Turns: of one pair so many connections walk at once, and the others wait."""

import asyncio
from dataclasses import replace

from coordinator_world import PUNCH, RELAY, REQUEST, SWEEP, World, home

from virtual_time import virtual_time
from warpfleet.core.combo import ConnectionOutcome, Policy, Reason


@virtual_time
async def test_of_one_pair_so_many_walk_at_once_and_the_others_after_them() -> None:
    world = World(udp_punch="wins")
    await world.begin()
    others = [replace(REQUEST, connection_id=f"{number:032x}") for number in range(1, 40)]
    elsewhere = replace(REQUEST, connection_id="e" * 32, responder="carol")
    await world.know(home("carol", "198.51.100.3"))
    await world.coordinator.connect([*others, elsewhere])
    await asyncio.sleep(1)
    begun = {order.connection_id for order in world.hosts[PUNCH].orders.values()}
    assert len(begun) == len(world.telemetry.begun) == 32 + 1, "none has begun before its turn"
    assert "e" * 32 in begun
    await asyncio.sleep(2.5)
    assert len(world.hosts[PUNCH].orders) == 40 + 1
    rows = await world.coordinator.finished(SWEEP, 60)
    rows += await world.coordinator.finished(SWEEP, 60)
    assert [row.outcome for row in rows] == [ConnectionOutcome.DIRECT] * 41
    assert {round(row.connect_ms or 0) for row in rows} == {1500}, "nobody has waited since it began"
    await world.coordinator.close()


@virtual_time
async def test_who_has_a_relayed_pipe_gives_its_turn_to_others_while_a_direct_path_is_sought() -> None:
    world = World(udp_punch="silent", turn="wins")
    asked = replace(REQUEST, policy=Policy.RELAY_FIRST)
    await world.begin(asked)
    await world.coordinator.connect([replace(asked, connection_id=f"{number:032x}") for number in range(1, 34)])
    await asyncio.sleep(1)
    assert len(world.hosts[RELAY].orders) == 32
    await asyncio.sleep(1)
    assert len(world.hosts[RELAY].orders) == 34
    assert await world.coordinator.finished(SWEEP, 0.1) == [], "all of them still walk"
    await world.coordinator.close()


@virtual_time
async def test_who_waits_for_its_turn_can_be_stopped() -> None:
    world = World(udp_punch="wins never")
    await world.begin()
    others = [replace(REQUEST, connection_id=f"{number:032x}") for number in range(1, 40)]
    await world.coordinator.connect(others)
    await asyncio.sleep(1)
    await world.coordinator.cancel(others[-1].connection_id, Reason.STOPPED)
    (row,) = await world.coordinator.finished(SWEEP, 1)
    assert (row.connection_id, row.outcome) == (others[-1].connection_id, ConnectionOutcome.CANCELLED)
    await world.coordinator.close()
    assert len(await world.coordinator.finished(SWEEP, 1)) == 39
