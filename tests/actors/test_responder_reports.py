"""What the responder's side reports, and which of its attempts are cancelled for it."""

import asyncio
import time
from dataclasses import replace

from coordinator_world import CONNECTION, PUNCH, RELAY, O, World

from virtual_time import virtual_time
from warpfleet.actors.values import CancelAttempt, PipeFacts, Report, Stage
from warpfleet.core.combo import Combo, ConnectionOutcome, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint


def responder_report(attempt: str, stage: Stage, plugin: str = PUNCH, **facts: object) -> Report:
    at_s = asyncio.get_running_loop().time()
    return Report(
        stage=stage,
        node="bob",
        peer="alice",
        attempt_id=attempt,
        connection_id=CONNECTION,
        side=Side.RESPONDER,
        combo=Combo(plugin, 4, RouteType.EXT),
        begun_s=at_s,
        at_s=at_s,
        started_at_us=int(time.time() * 1_000_000),
        **facts,  # type: ignore[arg-type]
    )


async def responding() -> World:
    world = World(udp_punch="silent", turn="silent")
    await world.coordinator.bind({plugin: host.take for plugin, host in world.hosts.items()})
    return world


@virtual_time
async def test_the_responders_losers_are_cancelled_when_a_pipe_is_taken() -> None:
    world = await responding()
    await world.coordinator.report([responder_report("a1", Stage.OPENED), responder_report("a2", Stage.OPENED, RELAY)])
    await world.coordinator.report([responder_report("a1", Stage.WON, outcome=O.WON)])
    await asyncio.sleep(1)
    assert world.hosts[RELAY].commands == [CancelAttempt("bob", "a2", Reason.OTHER_PIPE_WON)]
    assert world.hosts[PUNCH].commands == []
    await world.coordinator.close()
    assert [(r.attempt_id, r.side, r.outcome) for r in world.telemetry.attempt_rows] == [("a1", Side.RESPONDER, O.WON)]


@virtual_time
async def test_beside_a_relayed_pipe_a_direct_path_is_still_sought() -> None:
    world = await responding()
    relayed = PipeFacts(Transport.UDP, True, Endpoint("203.0.113.2", 1), Endpoint("203.0.113.3", 2))
    await world.coordinator.report([responder_report("a1", Stage.OPENED), responder_report("a2", Stage.OPENED, RELAY)])
    await world.coordinator.report([responder_report("a2", Stage.WON, RELAY, outcome=O.WON, pipe=relayed)])
    await asyncio.sleep(1)
    assert world.hosts[PUNCH].commands == []


@virtual_time
async def test_a_relayed_pipe_that_is_to_move_may_still_be_at_its_tunnel() -> None:
    world = await responding()
    await world.coordinator.report([responder_report("a1", Stage.OPENED), responder_report("a2", Stage.OPENED, RELAY)])
    await world.coordinator.report([responder_report("a1", Stage.WON, outcome=O.WON, moves=RELAY)])
    await asyncio.sleep(1)
    assert world.hosts[RELAY].commands == []


@virtual_time
async def test_an_attempt_that_failed_does_not_cancel_the_others() -> None:
    world = await responding()
    await world.coordinator.report(
        [
            responder_report("a1", Stage.OPENED),
            responder_report("a2", Stage.OPENED, RELAY),
            responder_report("a1", Stage.ENDED, outcome=O.TIMEOUT, reason=Reason.NO_ANSWER),
        ]
    )
    await asyncio.sleep(1)
    assert world.hosts[RELAY].commands == []


@virtual_time
async def test_reports_of_unknown_connections_change_nothing() -> None:
    world = World(udp_punch="wins")
    await world.begin()
    stray = replace(responder_report("ff" * 16, Stage.READY), side=Side.INITIATOR)
    await world.coordinator.report([stray, replace(stray, connection_id="none")])
    assert (await world.row()).outcome is ConnectionOutcome.DIRECT
