"""Plugin hosts that die, in the midst of a connection or before it: what becomes of its row."""

import asyncio
from dataclasses import replace

import pytest
from coordinator_world import PUNCH, RELAY, REQUEST, SWEEP, Host, O, World

from virtual_time import now_s, virtual_time
from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Reason
from warpfleet.core.plan import Pin


@virtual_time
@pytest.mark.parametrize(
    ("at_s", "outcome", "end"),
    [
        (0.5, ConnectionOutcome.ERROR, (O.FAILED, Reason.ACTOR_DIED)),  # running
        (1.2, ConnectionOutcome.ERROR, (O.FAILED, Reason.ACTOR_DIED)),  # named
        (1.6, ConnectionOutcome.DIRECT, (O.WON, None)),  # being measured
    ],
)
async def test_a_plugin_that_dies_takes_what_ran_in_it(
    at_s: float, outcome: ConnectionOutcome, end: tuple[AttemptOutcome, Reason | None]
) -> None:
    world = World(udp_punch="wins")
    await world.begin()
    await asyncio.sleep(at_s)
    for work in world.hosts[PUNCH].work:
        work.cancel()
    await world.coordinator.plugin_died(PUNCH)
    (row,) = await world.coordinator.finished(SWEEP, 5)
    assert now_s() < at_s + 0.1, "its death is noticed at once"
    assert row.outcome is outcome
    assert world.telemetry.ends() == {PUNCH: end}


@virtual_time
async def test_a_plugin_that_dies_before_its_phase_fails_as_soon_as_that_starts() -> None:
    world = World(udp_punch="fails", turn="wins")
    await world.begin()
    await asyncio.sleep(0.5)
    await world.coordinator.plugin_died(RELAY)
    (row,) = await world.coordinator.finished(SWEEP, 120)
    assert now_s() == pytest.approx(1, abs=0.1)
    assert (row.outcome, row.reason) == (ConnectionOutcome.ERROR, Reason.ACTOR_DIED), "nobody knows how it had ended"
    assert world.telemetry.ends()[RELAY] == (O.FAILED, Reason.ACTOR_DIED)


@virtual_time
async def test_a_host_that_died_is_waited_for_and_then_missing() -> None:
    world = World(udp_punch="wins", missing=RELAY)
    await world.coordinator.plugin_died(RELAY)
    await world.begin(replace(REQUEST, pin=Pin(plugin=RELAY)))
    (row,) = await world.coordinator.finished(SWEEP, 60)
    assert (row.outcome, row.reason) == (ConnectionOutcome.ERROR, Reason.ACTOR_DIED)
    assert now_s() == pytest.approx(20)


@virtual_time
async def test_a_host_that_is_replaced_in_time_is_used() -> None:
    world = World(turn="wins", missing=PUNCH)
    await world.coordinator.plugin_died(PUNCH)
    await world.begin()
    await asyncio.sleep(2)
    late = Host(world.coordinator, PUNCH, "wins")
    await world.coordinator.bind({PUNCH: late.take})
    row = await world.row()
    assert (row.plugin, row.connect_ms) == (PUNCH, pytest.approx(1500)), "its durations count from the real start"
