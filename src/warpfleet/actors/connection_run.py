"""Walks one connection: carries out what the planner decides, and writes down how every attempt ended."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from warpfleet.actors.surroundings import MACHINE, Surroundings
from warpfleet.actors.values import (
    CancelAttempt,
    Command,
    ConnectionRequest,
    NameWinner,
    Report,
    Stage,
    StartAttempt,
    Use,
)
from warpfleet.core.combo import AttemptOutcome, Combo, ConnectionOutcome, Phase, Reason, Side
from warpfleet.core.experience import Ended, Evidence, evidence, round_trip_of, subject_of
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Plan, Skipped, Technique
from warpfleet.core.walk import Action, Cancel, Finish, Move, Name, Start, Walk
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, StartedRow

# After the end of the walk: an echo takes a few round trips, a cancelled attempt a few milliseconds. What takes longer
# sits in an actor that hangs; its rows are written without it.
_MEASURE_S = 8.0
_SETTLE_S = 2.0


@dataclass(slots=True)
class _Running:
    combo: Combo
    phase: Phase | None
    started_s: float
    sent: StartAttempt
    advice: str | None = None
    row: AttemptRow | None = None


@dataclass(slots=True)
class _Pipe:
    """The pipe of the connection: the attempt that won it, and the one whose path it was to move to."""

    won: Report
    direct: Report | None = None
    moved_at_s: float | None = None
    measured: list[Report] = field(default_factory=list)  # once on each path
    lost: bool = False  # closed, or gone with its host

    @property
    def path(self) -> Report:
        """The attempt whose path it takes."""
        return self.direct if self.direct and self.moved_at_s is not None else self.won

    @property
    def moving(self) -> bool:
        return self.direct is not None and self.moved_at_s is None and not self.lost

    @property
    def measuring(self) -> bool:
        return not self.lost and len(self.measured) < (1 if self.moved_at_s is None else 2)


class ConnectionRun:
    """One connection, from its plan to its row. Runs in the coordinator's event loop; times are monotonic seconds.

    `command` sends to the host of a plugin; `on_attempt` gets each finished attempt's row.
    """

    def __init__(
        self,
        request: ConnectionRequest,
        techniques: Mapping[str, Technique],
        *,
        command: Callable[[str, Command], None],
        on_attempt: Callable[[AttemptRow], None],
        surroundings: Surroundings = MACHINE,
    ) -> None:
        self.request = request
        self._techniques = techniques
        self._command = command
        self._on_attempt = on_attempt
        self._surroundings = surroundings
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Report | Reason] = asyncio.Queue()
        self._attempts: dict[str, _Running] = {}
        self._ids: dict[Combo, str] = {}
        self._pipe: _Pipe | None = None
        self._upgrades = False
        self._began_s = self._loop.time()
        self.started_at = self._now()
        self.stopped: Reason | None = None

    def prepare(self) -> StartedRow:
        """What is recorded before the connection begins."""
        self.started_at = self._now()
        r = self.request
        return StartedRow(
            sweep_id=r.sweep_id,
            connection_id=r.connection_id,
            initiator=r.initiator,
            responder=r.responder,
            repeat=r.repeat,
            policy=r.policy,
            started_at=self.started_at,
        )

    def begin(self) -> None:
        """The connection starts now: the durations count from here."""
        self._began_s = self._loop.time()

    def refresh(self, order: StartAttempt) -> None:
        """Start an auxiliary attempt, which is recorded but takes no part in the walk."""
        self._attempts[order.attempt_id] = _Running(order.combo, None, self._elapsed_s(), order)
        self._command(order.combo.plugin, order)

    def report(self, report: Report) -> None:
        """Hear of one of the initiator's attempts."""
        self._events.put_nowait(report)

    def stop(self, reason: Reason) -> None:
        """End the connection soon."""
        self.stopped = self.stopped or reason
        self._events.put_nowait(reason)

    def plugin_died(self, plugin: str) -> None:
        """Everything that ran in this plugin's host is gone."""
        for attempt_id, running in self._attempts.items():
            if running.combo.plugin == plugin and running.row is None:
                self._events.put_nowait(self._died(attempt_id, running))
        if self._pipe and self._pipe.won.combo.plugin == plugin:
            self._events.put_nowait(replace(self._pipe.won, stage=Stage.ENDED, reason=Reason.ACTOR_DIED))

    def runs(self, attempt_id: str) -> bool:
        """Whether this attempt is one of ours."""
        return attempt_id in self._attempts

    async def walk(self, plan: Plan, mine: PeerView, theirs: PeerView) -> ConnectionRow:
        """Walk the plan to its end; the connection's row."""
        walk = Walk(plan)
        self._upgrades = plan.upgrades
        if self.stopped:
            walk.stop(self.stopped)
        finish: Finish | None = None
        while finish is None:
            for action in walk.advance(self._elapsed_s()):
                if isinstance(action, Finish):
                    finish = action
                else:
                    self._carry_out(action, theirs)
            if finish is None:
                await self._next_event(walk, walk.next_wakeup_s() - self._elapsed_s())
        for skipped in (*plan.skipped, *finish.untried):
            self._skip(skipped)
        await self._settle(walk, self.stopped or Reason.NOT_NEEDED)
        ends = [s.reason for s in plan.skipped] + [a.row.reason for a in self._attempts.values() if a.row]
        reason = finish.reason
        if reason in (Reason.NOTHING_TO_TRY, Reason.ALL_FAILED, Reason.ONLY_LONG_SHOTS) and Reason.ACTOR_DIED in ends:
            reason = Reason.ACTOR_DIED  # nobody knows what would have become of it
        return self.row(mine, theirs, None if self._pipe else reason)

    async def fail(self, mine: PeerView | None, theirs: PeerView | None, reason: Reason, error: str) -> ConnectionRow:
        """End without a walk, or in the midst of one that cannot go on; the connection's row."""
        for attempt_id, running in self._attempts.items():
            if running.row is None:
                self._cancel(attempt_id, reason)
        await self._settle(Walk(Plan((), (), 0)), reason)
        return self.row(mine, theirs, reason, error)

    def evidence(self, mine: PeerView, theirs: PeerView) -> list[Evidence]:
        """What the attempts of a walk that has ended teach: nothing where it has no pipe."""
        path = self._pipe.path if self._pipe else None
        rtt_ms = self._rtt_ms()
        at = self.started_at.timestamp()
        found: list[Evidence] = []
        for running in self._attempts.values():
            combo, row = running.combo, running.row
            if path is None or running.phase is None or row is None:
                continue
            requirement = self._techniques[combo.plugin].requirement
            subject = subject_of(requirement, combo, mine, theirs, self.request.realm)
            ran_ms = (row.ended_ms or 0) - (row.started_ms or 0)
            unanswered = 0 < (row.packets_sent or 0) <= (row.sockets or 0)  # a SYN each
            ended = Ended(combo, row.outcome, row.reason, ran_ms, unanswered)
            learnt = evidence(subject, ended, path.combo, rtt_ms, at) if subject else None
            found += [learnt] if learnt else []
        if path and rtt_ms is not None:
            round_trip = round_trip_of(path.combo, mine, theirs, self.request.realm)
            found += [Evidence(round_trip, True, at, rtt_ms=rtt_ms)] if round_trip else []
        return found

    def row(
        self, mine: PeerView | None, theirs: PeerView | None, reason: Reason | None, error: str = ""
    ) -> ConnectionRow:
        """The connection's row as things stand."""
        pipe, r = self._pipe, self.request
        path = pipe.path if pipe else None
        facts = path.pipe if path else None
        af = path.combo.af if path else (r.pin.af or 4)
        first_bytes_at_s = [m.first_byte_at_s for m in pipe.measured if m.first_byte_at_s] if pipe else []
        return ConnectionRow(
            sweep_id=r.sweep_id,
            connection_id=r.connection_id,
            initiator=r.initiator,
            responder=r.responder,
            repeat=r.repeat,
            policy=r.policy,
            started_at=self.started_at,
            outcome=self._outcome(reason),
            plugin=path.combo.plugin if path else None,
            phase=self._attempts[path.attempt_id].phase if path else None,
            transport=facts.transport if facts else None,
            af=path.combo.af if path else None,
            route_type=path.combo.route if path else None,
            local_endpoint=str(facts.local) if facts else None,
            remote_endpoint=str(facts.remote) if facts else None,
            connect_ms=self._ms(min([pipe.won.at_s, *first_bytes_at_s[:1]])) if pipe else None,
            first_byte_ms=self._ms(first_bytes_at_s[0]) if first_bytes_at_s else None,
            rtt_ms=self._rtt_ms(),
            upgraded_ms=self._ms(pipe.moved_at_s) if pipe and pipe.moved_at_s else None,
            initiator_nat=mine.behaviour(af).alias if mine else None,
            responder_nat=theirs.behaviour(af).alias if theirs else None,
            error=error or self._error(reason),
            reason=reason,
        )

    def _rtt_ms(self) -> float | None:
        """The round trip on the path that the pipe takes."""
        return self._pipe.measured[-1].rtt_ms if self._pipe and self._pipe.measured else None

    def _outcome(self, reason: Reason | None) -> ConnectionOutcome:
        if self._pipe and (facts := self._pipe.path.pipe):
            return ConnectionOutcome.RELAYED if facts.relayed else ConnectionOutcome.DIRECT
        if reason in (Reason.STOPPED, Reason.INTERRUPTED):
            return ConnectionOutcome.CANCELLED
        if reason in (Reason.INTERNAL, Reason.ACTOR_DIED, Reason.UNTRUSTED):
            return ConnectionOutcome.ERROR
        return ConnectionOutcome.FAILED

    def _error(self, reason: Reason | None) -> str | None:
        if reason is None:
            return None
        ends = [f"{a.combo}: {a.row.reason}" for a in self._attempts.values() if a.row and a.row.reason]
        return f"{reason}" + (f" ({'; '.join(ends)})" if ends else "")

    async def _next_event(self, walk: Walk, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                event = await self._events.get()
        except TimeoutError:
            return
        self._digest(walk, event)

    def _digest(self, walk: Walk, event: Report | Reason) -> None:
        if isinstance(event, Reason):
            walk.stop(event)
            return
        running = self._attempts[event.attempt_id]
        if event.stage is Stage.READY:
            walk.ready(running.combo)
        elif event.stage is Stage.WON and running.row is None:
            self._on_won(walk, running, event)
        elif event.stage is Stage.ENDED and running.row is None:
            walk.ended(running.combo)
            self._write(running, event)
        elif self._pipe and event.attempt_id == self._pipe.won.attempt_id:
            self._on_pipe(walk, self._pipe, event)

    def _on_pipe(self, walk: Walk, pipe: _Pipe, event: Report) -> None:
        if event.stage is Stage.MEASURED:
            pipe.measured.append(event)
        elif event.stage is Stage.MOVED:
            pipe.moved_at_s = event.at_s
        elif event.stage is Stage.ENDED:
            pipe.lost = True
            walk.stop(event.reason or Reason.NOT_NEEDED)

    def _on_won(self, walk: Walk, running: _Running, event: Report) -> None:
        """Both ends have agreed: a cancellation that is under way by now, as at the deadline, comes too late."""
        walk.agreed(running.combo)
        if self._pipe is None:
            self._pipe = _Pipe(event)
        else:
            self._pipe.direct = event
        self._write(running, event)

    def _carry_out(self, action: Action, theirs: PeerView) -> None:
        if isinstance(action, Start):
            self._start(action, theirs)
        elif isinstance(action, Name | Move):
            moves = self._pipe.won.combo.plugin if self._pipe else None
            order = NameWinner(self.request.initiator, self._ids[action.combo], moves)
            self._command(action.combo.plugin, order)
        elif isinstance(action, Cancel):
            self._cancel(self._ids[action.combo], action.reason)

    def _start(self, action: Start, theirs: PeerView) -> None:
        attempt_id = self._surroundings.new_id()
        order = StartAttempt(
            node=self.request.initiator,
            attempt_id=attempt_id,
            connection_id=self.request.connection_id,
            started_at_us=int(self.started_at.timestamp() * 1_000_000),
            combo=action.combo,
            timeout_s=action.timeout_s,
            peer=self.request.responder,
            theirs=theirs,
            use=self._use(action.phase),
            rtt_ms=action.rtt_ms,
            for_move=self._upgrades and action.phase is not Phase.RELAY,
        )
        self._ids[action.combo] = attempt_id
        self._attempts[attempt_id] = _Running(action.combo, action.phase, self._elapsed_s(), order, action.advice)
        self._command(action.combo.plugin, order)

    def _use(self, phase: Phase) -> Use:
        """A relayed pipe that is only measured is kept, too, while a direct path for it may come."""
        kept = self._upgrades and phase is Phase.RELAY and self.request.use is Use.MEASURE
        return Use.KEEP if kept else self.request.use

    def _cancel(self, attempt_id: str, reason: Reason) -> None:
        plugin = self._attempts[attempt_id].combo.plugin
        self._command(plugin, CancelAttempt(self.request.initiator, attempt_id, reason))

    async def _settle(self, walk: Walk, reason: Reason) -> None:
        """Wait for the attempts that were cancelled, then for the pipe's move and measurement, each for a while. For
        this reason an auxiliary attempt is cancelled, too, if it still runs."""
        for attempt_id, running in self._attempts.items():
            if running.phase is None and running.row is None:
                self._cancel(attempt_id, reason)
        await self._digest_until(walk, lambda: all(a.row for a in self._attempts.values()), _SETTLE_S)
        if pipe := self._pipe:
            await self._digest_until(walk, lambda: not pipe.moving, _SETTLE_S)
        if pipe and self.request.use is Use.MEASURE:
            await self._digest_until(walk, lambda: not pipe.measuring, _MEASURE_S)
            if self._upgrades:
                self._cancel(pipe.won.attempt_id, Reason.NOT_NEEDED)
        for attempt_id, running in self._attempts.items():
            if running.row is None:
                self._write(running, self._died(attempt_id, running))

    async def _digest_until(self, walk: Walk, done: Callable[[], bool], timeout_s: float) -> None:
        end_s = self._loop.time() + timeout_s
        while not done() and self._loop.time() < end_s:
            await self._next_event(walk, end_s - self._loop.time())

    def _died(self, attempt_id: str, running: _Running) -> Report:
        return Report(
            stage=Stage.ENDED,
            node=self.request.initiator,
            peer=self.request.responder,
            attempt_id=attempt_id,
            connection_id=self.request.connection_id,
            side=Side.INITIATOR,
            combo=running.combo,
            begun_s=self._began_s + running.started_s,
            at_s=self._loop.time(),
            started_at_us=running.sent.started_at_us,
            outcome=AttemptOutcome.FAILED,
            reason=Reason.ACTOR_DIED,
        )

    def _write(self, running: _Running, report: Report) -> None:
        assert report.outcome is not None
        running.row = AttemptRow(
            sweep_id=self.request.sweep_id,
            connection_id=self.request.connection_id,
            attempt_id=report.attempt_id,
            plugin=report.combo.plugin,
            phase=running.phase,
            transport=self._techniques[report.combo.plugin].transport,
            af=report.combo.af,
            route_type=report.combo.route,
            side=Side.INITIATOR,
            started_ms=self._ms(report.begun_s),
            ended_ms=self._ms(report.at_s),
            outcome=report.outcome,
            reason=report.reason,
            sockets=report.sockets,
            packets_sent=report.packets_sent,
            advice=running.advice,
        )
        self._on_attempt(running.row)

    def _skip(self, skipped: Skipped) -> None:
        self._on_attempt(
            AttemptRow(
                sweep_id=self.request.sweep_id,
                connection_id=self.request.connection_id,
                attempt_id=self._surroundings.new_id(),
                plugin=skipped.combo.plugin,
                phase=skipped.phase,
                transport=self._techniques[skipped.combo.plugin].transport,
                af=skipped.combo.af,
                route_type=skipped.combo.route,
                side=Side.INITIATOR,
                outcome=AttemptOutcome.SKIPPED,
                reason=skipped.reason,
                advice=skipped.advice,
            )
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._surroundings.now_s(), UTC)

    def _elapsed_s(self) -> float:
        return self._loop.time() - self._began_s

    def _ms(self, at_s: float) -> float:
        return (at_s - self._began_s) * 1000
