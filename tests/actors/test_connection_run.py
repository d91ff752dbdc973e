"""One connection by itself: what its row and its attempts' rows say, from reports in any order."""

import asyncio
from dataclasses import replace

import pytest

from fake_node import view
from virtual_time import now_s, virtual_time
from warpfleet.actors.connection_run import ConnectionRun
from warpfleet.actors.values import (
    CancelAttempt,
    Command,
    ConnectionRequest,
    NameWinner,
    PipeFacts,
    Report,
    Stage,
    StartAttempt,
    Use,
)
from warpfleet.core.combo import (
    AttemptOutcome,
    Combo,
    ConnectionOutcome,
    Phase,
    Policy,
    Reason,
    RouteType,
    Side,
    Transport,
)
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.core.plan import PhasePlan, Plan, Planned, Technique
from warpfleet.telemetry.records import AttemptRow, ConnectionRow

A, B = Combo("a", 4, RouteType.EXT), Combo("b", 4, RouteType.EXT)
ALICE, BOB = view("alice", "203.0.113.1"), view("bob", "203.0.113.2")
FACTS = PipeFacts(Transport.TCP, False, Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2))
PLAN = Plan((PhasePlan(Phase.DIRECT, 5, (Planned(A, 0), Planned(B, 0))),), (), 30.0)
WON = {"outcome": AttemptOutcome.WON, "pipe": FACTS}


RELAYED = replace(FACTS, transport=Transport.UDP, relayed=True)
RELAY_FIRST = Plan(
    (PhasePlan(Phase.DIRECT, 5, (Planned(A, 0),)), PhasePlan(Phase.RELAY, 5, (Planned(B, 0),))), (), 30.0, upgrades=True
)


class Bench:
    """A connection whose two attempts are driven by hand."""

    def __init__(self, plan: Plan = PLAN, use: Use = Use.MEASURE) -> None:
        self.commands: list[Command] = []
        self.rows: list[AttemptRow] = []
        common = {"phase": Phase.DIRECT, "transport": Transport.TCP, "requirement": Requirement.SIGNAL}
        techniques = {name: Technique(plugin=name, routes=(RouteType.EXT,), **common) for name in "ab"}  # type: ignore[arg-type]
        request = ConnectionRequest("s", "c1" * 16, "alice", "bob", 0, Policy.STAGGERED, use=use)
        self.run = ConnectionRun(
            request, techniques, command=lambda _plugin, c: self.commands.append(c), on_attempt=self.rows.append
        )
        self.run.record.prepare()
        self.run.record.begin()
        self.walking = asyncio.create_task(self.run.walk(plan, ALICE, BOB))

    async def say(self, plugin: str, stage: Stage, **facts: object) -> None:
        await asyncio.sleep(0.1)
        (order,) = [c for c in self.commands if isinstance(c, StartAttempt) and c.combo.plugin == plugin]
        report = Report(
            stage=stage,
            node="alice",
            peer="bob",
            attempt_id=order.attempt_id,
            connection_id=order.connection_id,
            side=Side.INITIATOR,
            combo=order.combo,
            begun_s=asyncio.get_running_loop().time(),
            at_s=asyncio.get_running_loop().time(),
            started_at_us=order.started_at_us,
            **facts,  # type: ignore[arg-type]
        )
        self.run.report(report)

    async def row(self) -> ConnectionRow:
        async with asyncio.timeout(100):
            row = await self.walking
        assert sorted(r.plugin for r in self.rows) == ["a", "b"], "one row an attempt"
        return row

    def ends(self) -> dict[str, AttemptOutcome]:
        return {r.plugin: r.outcome for r in self.rows}


@virtual_time
async def test_the_winners_row() -> None:
    bench = Bench()
    await bench.say("a", Stage.READY)
    await bench.say("a", Stage.WON, **WON)
    await bench.say("b", Stage.ENDED, outcome=AttemptOutcome.CANCELLED, reason=Reason.OTHER_PIPE_WON)
    await bench.say("a", Stage.MEASURED, first_byte_at_s=asyncio.get_running_loop().time(), rtt_ms=7.0)
    row = await bench.row()
    assert (row.outcome, row.plugin, row.phase, row.transport, row.af) == (
        ConnectionOutcome.DIRECT,
        "a",
        Phase.DIRECT,
        Transport.TCP,
        4,
    )
    assert (row.local_endpoint, row.remote_endpoint) == ("203.0.113.1:1", "203.0.113.2:2")
    assert (row.connect_ms, row.rtt_ms, row.reason, row.error) == (pytest.approx(200), 7.0, None, None)
    assert now_s() == pytest.approx(0.4), "it waits for nothing more"


@virtual_time
async def test_the_measurement_of_another_attempt_is_none_of_the_winners() -> None:
    bench = Bench()
    await bench.say("a", Stage.READY)
    await bench.say("b", Stage.MEASURED, rtt_ms=1.0)
    await bench.say("a", Stage.WON, **WON)
    await bench.say("b", Stage.MEASURED, rtt_ms=2.0)
    await bench.say("b", Stage.ENDED, outcome=AttemptOutcome.LOST, reason=Reason.OTHER_PIPE_WON)
    await bench.say("a", Stage.MEASURED, rtt_ms=7.0)
    assert (await bench.row()).rtt_ms == 7.0


@virtual_time
async def test_an_attempt_ends_once_whatever_is_reported_after() -> None:
    bench = Bench()
    failed = {"outcome": AttemptOutcome.FAILED, "reason": Reason.REFUSED}
    await bench.say("a", Stage.ENDED, **failed)
    await bench.say("a", Stage.READY)
    await bench.say("a", Stage.WON, **WON)
    await bench.say("a", Stage.ENDED, **failed)
    await bench.say("b", Stage.ENDED, **failed)
    row = await bench.row()
    assert (row.outcome, row.reason) == (ConnectionOutcome.FAILED, Reason.ALL_FAILED)
    assert bench.ends() == {"a": AttemptOutcome.FAILED, "b": AttemptOutcome.FAILED}


@virtual_time
async def test_cancelled_attempts_that_never_say_so_are_written_all_the_same() -> None:
    bench = Bench()
    await asyncio.sleep(1)
    bench.run.stop(Reason.STOPPED)
    row = await bench.row()
    assert (row.outcome, row.reason) == (ConnectionOutcome.CANCELLED, Reason.STOPPED)
    assert now_s() == pytest.approx(3)
    assert [type(c) for c in bench.commands] == [StartAttempt, StartAttempt, CancelAttempt, CancelAttempt]
    assert {r.reason for r in bench.rows} == {Reason.ACTOR_DIED}


@virtual_time
async def test_a_pipe_that_both_ends_agreed_on_counts_even_when_the_stop_was_first() -> None:
    bench = Bench()
    await bench.say("a", Stage.READY)
    await bench.say("b", Stage.ENDED, outcome=AttemptOutcome.FAILED, reason=Reason.REFUSED)
    bench.run.stop(Reason.STOPPED)
    await bench.say("a", Stage.WON, **WON)
    await bench.say("a", Stage.MEASURED, rtt_ms=7.0)
    row = await bench.row()
    assert (row.outcome, row.reason, row.rtt_ms) == (ConnectionOutcome.DIRECT, None, 7.0)
    assert bench.ends()["a"] is AttemptOutcome.WON


async def relayed(bench: Bench) -> None:
    """B's relayed pipe is agreed on after 0.2 s, and measured after 0.3 s."""
    await bench.say("b", Stage.READY)
    await bench.say("b", Stage.WON, outcome=AttemptOutcome.WON, pipe=RELAYED)
    await bench.say("b", Stage.MEASURED, first_byte_at_s=asyncio.get_running_loop().time() + 0.1, rtt_ms=80.0)


def orders(bench: Bench) -> list[tuple[str, str | None]]:
    """Who is named the winner, and whose pipe moves there."""
    plugins = {c.attempt_id: c.combo.plugin for c in bench.commands if isinstance(c, StartAttempt)}
    return [(plugins[c.attempt_id], c.moves) for c in bench.commands if isinstance(c, NameWinner)]


@virtual_time
async def test_the_row_of_a_pipe_that_has_moved() -> None:
    bench = Bench(RELAY_FIRST)
    await relayed(bench)
    await bench.say("a", Stage.READY)
    await bench.say("a", Stage.WON, **WON)
    await bench.say("b", Stage.MOVED)
    await bench.say("b", Stage.MEASURED, first_byte_at_s=asyncio.get_running_loop().time(), rtt_ms=7.0)
    row = await bench.row()
    assert (row.outcome, row.plugin, row.phase, row.remote_endpoint) == (
        ConnectionOutcome.DIRECT,
        "a",
        Phase.DIRECT,
        "203.0.113.2:2",
    )
    times_ms = row.connect_ms, row.first_byte_ms, row.upgraded_ms
    assert times_ms == (pytest.approx(200), pytest.approx(300), pytest.approx(600))
    assert (row.rtt_ms, row.reason, row.error) == (7.0, None, None)
    assert bench.ends() == {"a": AttemptOutcome.WON, "b": AttemptOutcome.WON}
    assert orders(bench) == [("b", None), ("a", "b")]
    assert {c.combo.plugin: c.use for c in bench.commands if isinstance(c, StartAttempt)} == {
        "a": Use.MEASURE,
        "b": Use.KEEP,
    }
    assert isinstance(bench.commands[-1], CancelAttempt), "what was kept is closed"
    assert now_s() == pytest.approx(0.7), "it waits for nothing more"


@virtual_time
async def test_the_row_of_a_pipe_that_stays_on_its_relay() -> None:
    bench = Bench(RELAY_FIRST)
    await relayed(bench)
    await bench.say("a", Stage.ENDED, outcome=AttemptOutcome.TIMEOUT, reason=Reason.NO_ANSWER)
    row = await bench.row()
    assert (row.outcome, row.plugin, row.rtt_ms) == (ConnectionOutcome.RELAYED, "b", 80.0)
    assert (row.upgraded_ms, row.reason, row.error) == (None, None, None)


@virtual_time
async def test_a_path_that_the_pipe_never_moved_to_is_not_the_rows() -> None:
    bench = Bench(RELAY_FIRST)
    await relayed(bench)
    await bench.say("a", Stage.READY)
    await bench.say("a", Stage.WON, **WON)
    row = await bench.row()
    assert (row.outcome, row.plugin, row.upgraded_ms) == (ConnectionOutcome.RELAYED, "b", None)


@virtual_time
async def test_where_the_program_has_closed_its_pipe_no_direct_path_is_sought_any_more() -> None:
    bench = Bench(RELAY_FIRST, Use.HOLD)
    await bench.say("b", Stage.READY)
    await bench.say("b", Stage.WON, outcome=AttemptOutcome.WON, pipe=RELAYED)
    await bench.say("b", Stage.ENDED, reason=Reason.NOT_NEEDED)
    await bench.say("a", Stage.ENDED, outcome=AttemptOutcome.CANCELLED, reason=Reason.NOT_NEEDED)
    row = await bench.row()
    assert [c.reason for c in bench.commands if isinstance(c, CancelAttempt)] == [Reason.NOT_NEEDED]
    assert (row.outcome, row.reason) == (ConnectionOutcome.RELAYED, None)
    assert now_s() == pytest.approx(0.4)


@virtual_time
async def test_a_relayed_pipe_that_dies_with_its_host_is_not_waited_for() -> None:
    bench = Bench(RELAY_FIRST)
    await bench.say("b", Stage.READY)
    await bench.say("b", Stage.WON, outcome=AttemptOutcome.WON, pipe=RELAYED)
    await asyncio.sleep(0.1)
    bench.run.plugin_died("b")
    await bench.say("a", Stage.ENDED, outcome=AttemptOutcome.CANCELLED, reason=Reason.ACTOR_DIED)
    assert (await bench.row()).outcome is ConnectionOutcome.RELAYED
    assert now_s() == pytest.approx(0.4)
