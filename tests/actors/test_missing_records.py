"""Ends whose address record is missing or has expired: the peer is asked, and the row says what was not there."""

import asyncio
import time

import pytest
from coordinator_world import ALICE, BOB, SWEEP, O, World

from virtual_time import now_s, virtual_time
from warpfleet.actors.coordinator import RecordView
from warpfleet.actors.values import Stage
from warpfleet.core.combo import Combo, ConnectionOutcome, Reason, RouteType
from warpfleet.core.peer import PeerView


@virtual_time
async def test_a_peer_without_a_record_is_asked_for_it() -> None:
    world = World(udp_punch="wins", get_addr="refreshes")
    await world.begin(known=(ALICE,))
    await asyncio.sleep(1)
    (asked,) = world.hosts["get_addr"].orders.values()
    assert asked.combo == Combo("get_addr", 4, RouteType.EXT)
    await world.hosts["get_addr"].say(asked.attempt_id, Stage.ENDED, outcome=O.LOST, reason=Reason.REFRESHED)
    await world.know(BOB)
    row = await world.row()
    assert (row.outcome, row.connect_ms) == (ConnectionOutcome.DIRECT, pytest.approx(2500))
    assert world.telemetry.ends()["get_addr"] == (O.LOST, Reason.REFRESHED)


@virtual_time
@pytest.mark.parametrize(("known", "missing"), [((ALICE,), "bob"), ((BOB,), "alice")])
async def test_without_a_record_there_is_a_row_that_says_so(known: tuple[PeerView, ...], missing: str) -> None:
    world = World(udp_punch="wins", get_addr="cancellable")
    await world.begin(known=known)
    (row,) = await world.coordinator.finished(SWEEP, 60)
    assert (row.outcome, row.reason) == (ConnectionOutcome.FAILED, Reason.NO_RECORD)
    assert row.error == f"{missing} has published no valid address record"
    assert now_s() == pytest.approx(5 if missing == "bob" else 0, abs=0.1)


@virtual_time
async def test_stopped_while_the_peer_is_asked_it_does_not_wait() -> None:
    world = World(get_addr="cancellable")
    await world.begin(known=(ALICE,))
    await asyncio.sleep(1)
    await world.coordinator.stop(SWEEP)
    (row,) = await world.coordinator.finished(SWEEP, 60)
    assert now_s() == pytest.approx(1, abs=0.1)
    assert (row.outcome, row.reason) == (ConnectionOutcome.CANCELLED, Reason.STOPPED)


@virtual_time
async def test_an_expired_record_is_none() -> None:
    world = World(get_addr="cancellable")
    await world.begin(known=(ALICE,))
    await world.coordinator.learn({"bob": RecordView(BOB, time.time() - 1)})
    assert (await world.row()).reason is Reason.NO_RECORD
