"""Walks one connection: carries out what the planner decides, and has written down how every attempt ended."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from warpfleet.actors.connection_record import ConnectionRecord, RecordedPipe
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
from warpfleet.core.combo import Combo, Phase, Reason
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Plan, Technique
from warpfleet.core.walk import Action, Cancel, Finish, Move, Name, Start, Walk
from warpfleet.telemetry.records import AttemptRow, ConnectionRow

# After the end of the walk: an echo takes a few round trips, a cancelled attempt a few milliseconds. What takes longer
# sits in an actor that hangs; its rows are written without it.
_MEASURE_S = 8.0
_SETTLE_S = 2.0


class ConnectionRun:
    """One connection, from its plan to its row, which `record` makes. Runs in the coordinator's event loop.

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
        self.record = ConnectionRecord(request, techniques, surroundings)
        self._command = command
        self._on_attempt = on_attempt
        self._surroundings = surroundings
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Report | Reason] = asyncio.Queue()
        self._ids: dict[Combo, str] = {}
        self._upgrades = False
        self._on_pipe_there: Callable[[], None] = lambda: None
        self._waiting: asyncio.Future[object] | None = None
        self.stopped: Reason | None = None

    def refresh(self, order: StartAttempt) -> None:
        """Start an auxiliary attempt, which is recorded but takes no part in the walk."""
        self.record.start(order, None)
        self._command(order.combo.plugin, order)

    def report(self, report: Report) -> None:
        """Hear of one of the initiator's attempts."""
        self._events.put_nowait(report)

    def stop(self, reason: Reason) -> None:
        """End the connection soon."""
        self.stopped = self.stopped or reason
        self._events.put_nowait(reason)
        if self._waiting:
            self._waiting.cancel()

    async def unless_stopped(self, wait: Coroutine[Any, Any, object]) -> bool:
        """Wait for something; False where the connection is stopped before it is there."""
        self._waiting = asyncio.ensure_future(wait)
        if self.stopped:
            self._waiting.cancel()
        try:
            await self._waiting
        except asyncio.CancelledError:
            if self.stopped and self._waiting.cancelled():
                return False
            raise
        finally:
            self._waiting = None
        return True

    def plugin_died(self, plugin: str) -> None:
        """Everything that ran in this plugin's host is gone."""
        for attempt_id, attempt in self.record.running.items():
            if attempt.combo.plugin == plugin:
                self._events.put_nowait(self.record.died(attempt_id))
        if (pipe := self.record.pipe) and pipe.won.combo.plugin == plugin:
            self._events.put_nowait(replace(pipe.won, stage=Stage.ENDED, reason=Reason.ACTOR_DIED))

    def runs(self, attempt_id: str) -> bool:
        """Whether this attempt is one of ours."""
        return attempt_id in self.record.attempts

    async def walk(
        self, plan: Plan, mine: PeerView, theirs: PeerView, on_pipe: Callable[[], None] = lambda: None
    ) -> ConnectionRow:
        """Walk the plan to its end; the connection's row. `on_pipe` hears that there is a pipe."""
        walk = Walk(plan)
        self._upgrades = plan.upgrades
        self._on_pipe_there = on_pipe
        if self.stopped:
            walk.stop(self.stopped)
        finish: Finish | None = None
        while finish is None:
            for action in walk.advance(self.record.elapsed_s):
                if isinstance(action, Finish):
                    finish = action
                else:
                    self._carry_out(action, theirs)
            if finish is None:
                await self._next_event(walk, walk.next_wakeup_s() - self.record.elapsed_s)
        for skipped in (*plan.skipped, *finish.untried):
            self._on_attempt(self.record.skip(skipped))
        await self._settle(walk, self.stopped or Reason.NOT_NEEDED)
        ends = [s.reason for s in plan.skipped] + [a.row.reason for a in self.record.attempts.values() if a.row]
        reason = finish.reason
        if reason in (Reason.NOTHING_TO_TRY, Reason.ALL_FAILED, Reason.ONLY_LONG_SHOTS) and Reason.ACTOR_DIED in ends:
            reason = Reason.ACTOR_DIED  # nobody knows what would have become of it
        return self.record.row(mine, theirs, None if self.record.pipe else reason)

    async def fail(self, mine: PeerView | None, theirs: PeerView | None, reason: Reason, error: str) -> ConnectionRow:
        """End without a walk, or in the midst of one that cannot go on; the connection's row."""
        for attempt_id in self.record.running:
            self._cancel(attempt_id, reason)
        await self._settle(Walk(Plan((), (), 0)), reason)
        return self.record.row(mine, theirs, reason, error)

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
        attempt, pipe = self.record.attempts[event.attempt_id], self.record.pipe
        if event.stage is Stage.READY:
            walk.ready(attempt.combo)
        elif event.stage is Stage.WON and attempt.row is None:
            # Both ends have agreed: a cancellation that is under way by now, as at the deadline, comes too late.
            walk.agreed(attempt.combo)
            self._on_attempt(self.record.win(event))
            self._on_pipe_there()
        elif event.stage is Stage.ENDED and attempt.row is None:
            walk.ended(attempt.combo)
            self._on_attempt(self.record.end(event))
        elif pipe and event.attempt_id == pipe.won.attempt_id:
            self._on_pipe(walk, pipe, event)

    def _on_pipe(self, walk: Walk, pipe: RecordedPipe, event: Report) -> None:
        if event.stage is Stage.MEASURED:
            pipe.measured.append(event)
        elif event.stage is Stage.MOVED:
            pipe.moved_at_s = event.at_s
        elif event.stage is Stage.ENDED:
            pipe.lost = True
            walk.stop(event.reason or Reason.NOT_NEEDED)

    def _carry_out(self, action: Action, theirs: PeerView) -> None:
        if isinstance(action, Start):
            self._start(action, theirs)
        elif isinstance(action, Name | Move):
            moves = self.record.pipe.won.combo.plugin if self.record.pipe else None
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
            started_at_us=self.record.started_at_us,
            combo=action.combo,
            timeout_s=action.timeout_s,
            peer=self.request.responder,
            theirs=theirs,
            use=self._use(action.phase),
            rtt_ms=action.rtt_ms,
            for_move=self._upgrades and action.phase is not Phase.RELAY,
        )
        self._ids[action.combo] = attempt_id
        self.record.start(order, action.phase, action.advice)
        self._command(action.combo.plugin, order)

    def _use(self, phase: Phase) -> Use:
        """A relayed pipe that is only measured is kept, too, while a direct path for it may come."""
        kept = self._upgrades and phase is Phase.RELAY and self.request.use is Use.MEASURE
        return Use.KEEP if kept else self.request.use

    def _cancel(self, attempt_id: str, reason: Reason) -> None:
        plugin = self.record.attempts[attempt_id].combo.plugin
        self._command(plugin, CancelAttempt(self.request.initiator, attempt_id, reason))

    async def _settle(self, walk: Walk, reason: Reason) -> None:
        """Wait for the attempts that were cancelled, then for the pipe's move and measurement, each for a while. For
        this reason an auxiliary attempt is cancelled, too, if it still runs."""
        for attempt_id, attempt in self.record.running.items():
            if attempt.phase is None:
                self._cancel(attempt_id, reason)
        await self._digest_until(walk, lambda: not self.record.running, _SETTLE_S)
        if pipe := self.record.pipe:
            await self._digest_until(walk, lambda: not pipe.moving, _SETTLE_S)
        if pipe and self.request.use is Use.MEASURE:
            await self._digest_until(walk, lambda: not pipe.measuring, _MEASURE_S)
            if self._upgrades:
                self._cancel(pipe.won.attempt_id, Reason.NOT_NEEDED)
        for attempt_id in self.record.running:
            self._on_attempt(self.record.end(self.record.died(attempt_id)))

    async def _digest_until(self, walk: Walk, done: Callable[[], bool], timeout_s: float) -> None:
        end_s = self._loop.time() + timeout_s
        while not done() and self._loop.time() < end_s:
            await self._next_event(walk, end_s - self._loop.time())
