"""One row for each connection, whatever happens: plugins that win, fail and fall silent, and stops, on exact times."""

import asyncio

import pytest
from coordinator_world import PUNCH, RELAY, SWEEP, O, World

from virtual_time import now_s, virtual_time
from warpfleet.actors.values import CancelAttempt
from warpfleet.core.combo import ConnectionOutcome, Reason
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, Row, StartedRow


@virtual_time
async def test_a_direct_win() -> None:
    world = World(udp_punch="wins", turn="silent")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.plugin, row.phase, row.reason) == (ConnectionOutcome.DIRECT, PUNCH, "spray", None)
    assert (row.connect_ms, row.first_byte_ms, row.rtt_ms) == pytest.approx((1500, 1750, 80))
    assert (row.initiator_nat, row.responder_nat) == ("port_restricted", "port_restricted")
    assert world.telemetry.ends() == {PUNCH: (O.WON, None)}
    assert world.hosts[RELAY].commands == [], "the relay's time never came"
    skipped = {(r.plugin, r.reason) for r in world.telemetry.attempt_rows if r.outcome is O.SKIPPED}
    assert (RELAY, Reason.NOT_NEEDED) in skipped
    assert ("direct_connect", Reason.OPTED_OUT) in skipped


@virtual_time
async def test_the_relay_wins_where_the_punch_has_failed() -> None:
    world = World(udp_punch="fails", turn="wins")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.plugin, row.connect_ms) == (ConnectionOutcome.RELAYED, RELAY, pytest.approx(2500))
    assert world.telemetry.ends() == {PUNCH: (O.FAILED, Reason.NO_ANSWER), RELAY: (O.WON, None)}


@virtual_time
async def test_the_loser_is_cancelled() -> None:
    world = World(udp_punch="slow", turn="wins")
    await world.begin()
    row = await world.row()
    assert (row.plugin, row.connect_ms) == (RELAY, pytest.approx(4000))
    assert world.telemetry.ends()[PUNCH] == (O.CANCELLED, Reason.OTHER_PIPE_WON)


@virtual_time
async def test_everything_failed() -> None:
    world = World(udp_punch="fails", turn="fails")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.reason, row.plugin) == (ConnectionOutcome.FAILED, Reason.ALL_FAILED, None)
    assert "udp_punch/IPv4/ext: no_answer" in (row.error or "")
    assert (row.connect_ms, row.first_byte_ms) == (None, None)


@virtual_time
async def test_hosts_that_never_say_a_word_cost_the_deadline_and_not_much_more() -> None:
    world = World(udp_punch="silent", turn="silent")
    await world.begin()
    (row,) = await world.coordinator.finished(SWEEP, 120)
    assert now_s() == pytest.approx(32)
    assert (row.outcome, row.reason) == (ConnectionOutcome.FAILED, Reason.DEADLINE)
    assert world.telemetry.rows == [row]
    assert set(world.telemetry.ends().values()) == {(O.FAILED, Reason.ACTOR_DIED)}
    assert all(world.hosts[plugin].told(CancelAttempt) for plugin in (PUNCH, RELAY))


@virtual_time
async def test_a_pipe_that_is_never_measured_still_counts() -> None:
    world = World(udp_punch="wins unmeasured")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.first_byte_ms, row.rtt_ms) == (ConnectionOutcome.DIRECT, None, None)


@virtual_time
@pytest.mark.parametrize(
    ("at_s", "outcome"),
    [
        (0, ConnectionOutcome.CANCELLED),
        (0.5, ConnectionOutcome.CANCELLED),
        (1.2, ConnectionOutcome.CANCELLED),
        (1.6, ConnectionOutcome.DIRECT),
    ],
)
@pytest.mark.parametrize("how", ["stop", "close"])
async def test_stopped_at_any_stage_there_is_one_row(at_s: float, outcome: ConnectionOutcome, how: str) -> None:
    world = World(udp_punch="wins")
    await world.begin()
    await asyncio.sleep(at_s)
    await (world.coordinator.stop(SWEEP) if how == "stop" else world.coordinator.close())
    row = await world.row()
    assert row.outcome is outcome
    assert row.reason is (Reason.STOPPED if outcome is ConnectionOutcome.CANCELLED else None)


@virtual_time
async def test_an_undecided_agreement_at_the_stop_leaves_no_second_row() -> None:
    world = World(udp_punch="wins never")
    await world.begin()
    await asyncio.sleep(1.2)
    await world.coordinator.stop(SWEEP)
    await asyncio.sleep(0)
    row = await world.row()
    assert row.outcome is ConnectionOutcome.CANCELLED
    assert len([r for r in world.telemetry.attempt_rows if r.plugin == PUNCH and r.outcome is not O.SKIPPED]) == 1


@virtual_time
@pytest.mark.parametrize("broken", [StartedRow, AttemptRow, ConnectionRow])
async def test_telemetry_that_raises_leaves_the_sweep_its_row(broken: type[Row]) -> None:
    world = World(udp_punch="wins")
    world.telemetry.broken = {broken}
    await world.begin()
    row = await world.row()
    if broken is StartedRow:
        assert (row.outcome, row.reason) == (ConnectionOutcome.ERROR, Reason.INTERNAL)
        assert row.error == "MissingError: disk full"
    else:
        assert row.outcome is ConnectionOutcome.DIRECT


@virtual_time
async def test_what_opted_out_of_the_initiator_is_not_tried() -> None:
    world = World(udp_punch="wins", turn="wins")
    await world.coordinator.opted_out([(PUNCH, "alice"), (RELAY, "bob")])
    await world.begin()
    assert (await world.row()).plugin == RELAY
    assert world.hosts[PUNCH].commands == []
