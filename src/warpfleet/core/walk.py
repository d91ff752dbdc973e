"""The phase walk: the state machine that walks the plan of one pair. Given the time, never taking it."""

from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from math import inf

from warpfleet.core.combo import Combo, Phase, Reason
from warpfleet.core.plan import PhasePlan, Plan, Planned, Skipped

RELAY_AWAITED_S = 1.0
"""Only a pipe that began on a relay has one to go back to. Where that is wanted, a direct path that is there sooner
waits for so long, in which a server that answers at all has answered, also over TCP."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start an attempt of this combo. `advice` and `rtt_ms` are those of the plan."""

    combo: Combo
    phase: Phase
    timeout_s: float
    advice: str | None = None
    rtt_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """Name the pipe of this combo the winner; the attempt then gets the peer's agreement or fails."""

    combo: Combo


@dataclass(frozen=True, slots=True)
class Move:
    """Have the relayed pipe that is in use move to the path of this combo; the attempt then gets the peer's agreement
    or fails."""

    combo: Combo


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the attempt of this combo."""

    combo: Combo
    reason: Reason


@dataclass(frozen=True, slots=True)
class Finish:
    """The walk is over. Without a winner there is a reason; `untried` are the combos that were never started. A relayed
    winner of a plan that upgrades is one that nothing direct has taken over from."""

    winner: Combo | None
    reason: Reason | None
    untried: tuple[Skipped, ...]


Action = Start | Name | Move | Cancel | Finish


class _State(Enum):
    RUNNING = "running"
    READY = "ready"  # both ends proved; waits to be named
    NAMED = "named"
    CARRYING = "carrying"  # relayed and in use, until a direct path is there
    ENDED = "ended"


_Batch = list[tuple[PhasePlan, Planned]]


def _batches(plan: Plan) -> list[_Batch]:
    """What starts together, in the order of starting: by its time, then phase by phase what has none."""
    entries = [(phase, planned) for phase in plan.phases for planned in phase.combos]
    entries.sort(key=lambda entry: inf if entry[1].start_s is None else entry[1].start_s)
    batches = groupby(entries, lambda entry: entry[0].phase if entry[1].start_s is None else entry[1].start_s)
    return [list(batch) for _, batch in batches]


class Walk:
    """Walks one plan. Feed it what happens to the attempts, then ask `advance` what to do. Times are seconds since the
    walk began."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._batches = _batches(plan)
        self._states: dict[Combo, _State] = {}
        self._long_shots = {planned.combo for phase in plan.phases for planned in phase.combos if planned.long_shot}
        self._relays = {p.combo for phase in plan.phases if phase.phase is Phase.RELAY for p in phase.combos}
        self._winner: Combo | None = None
        self._carrier: Combo | None = None
        self._stopped: Reason | None = None
        self.finished = False

    def ready(self, combo: Combo) -> None:
        """Both ends of this attempt's pipe have proved themselves."""
        if self._states.get(combo) is _State.RUNNING:
            self._states[combo] = _State.READY

    def agreed(self, combo: Combo) -> None:
        """Both ends agree on this pipe, or on this path for the pipe that is in use."""
        if self._states.get(combo) is not _State.NAMED:
            return
        if self._plan.upgrades and combo in self._relays:
            self._carrier = combo
            self._states[combo] = _State.CARRYING
        else:
            self._winner = combo

    def ended(self, combo: Combo) -> None:
        """The attempt ended without becoming the winner."""
        if combo in self._states:
            self._states[combo] = _State.ENDED

    def stop(self, reason: Reason) -> None:
        """Give up; the next `advance` cancels what runs and finishes."""
        self._stopped = self._stopped or reason

    def advance(self, elapsed_s: float) -> list[Action]:
        """What is to be done now. Nothing more after a `Finish`."""
        if self.finished:
            return []
        if self._winner:
            return self._finish(Reason.OTHER_PIPE_WON, None)
        if elapsed_s >= self._plan.deadline_s:
            self.stop(Reason.DEADLINE)
        if self._stopped:
            return self._finish(self._stopped, self._stopped)
        actions = [*self._spare_relays(), *self._start_due(elapsed_s), *self._name_next(elapsed_s)]
        if not actions and all(state in (_State.ENDED, _State.CARRYING) for state in self._states.values()):
            return self._finish(Reason.ALL_FAILED, self._nothing_came())
        return actions

    def next_wakeup_s(self) -> float:
        """When `advance` has to be called at the latest although nothing happens."""
        waiting = [p.start_s for batch in self._batches for _, p in self._unstarted(batch) if p.start_s is not None]
        return min([*waiting, *([RELAY_AWAITED_S] if self._relay_comes else []), self._plan.deadline_s])

    def _nothing_came(self) -> Reason:
        if not self._states:
            return Reason.NOTHING_TO_TRY
        return Reason.ONLY_LONG_SHOTS if self._states.keys() <= self._long_shots else Reason.ALL_FAILED

    def _start_due(self, elapsed_s: float) -> list[Action]:
        actions: list[Action] = []
        for batch in self._batches:
            nothing_earlier = not self._awaited()
            for phase, planned in self._unstarted(batch):
                on_time = planned.start_s is not None and elapsed_s >= planned.start_s
                spare = self._carrier is not None and planned.combo in self._relays
                if not spare and (on_time or nothing_earlier):
                    self._states[planned.combo] = _State.RUNNING
                    actions.append(Start(planned.combo, phase.phase, phase.timeout_s, planned.advice, planned.rtt_ms))
        return actions

    def _awaited(self) -> bool:
        """Whether anything is under way that later ones wait for: not long shots, unless they are as good as won, nor a
        relay that a direct path takes over from."""
        unawaited = self._long_shots | (self._relays if self._plan.upgrades else set())
        return any(
            state not in (_State.ENDED, _State.CARRYING) and not (state is _State.RUNNING and combo in unawaited)
            for combo, state in self._states.items()
        )

    def _spare_relays(self) -> list[Action]:
        """Of several relays one is enough."""
        if self._carrier is None:
            return []
        live = (_State.RUNNING, _State.READY)
        spare = [c for c, state in self._states.items() if c in self._relays and state in live]
        self._states.update(dict.fromkeys(spare, _State.ENDED))
        return [Cancel(combo, Reason.OTHER_PIPE_WON) for combo in spare]

    def _unstarted(self, batch: _Batch) -> _Batch:
        return [(phase, planned) for phase, planned in batch if planned.combo not in self._states]

    @property
    def _relay_comes(self) -> bool:
        """Whether a relay is under way on which the pipe is to begin."""
        relays = {self._states.get(combo) for combo in self._relays}
        return self._plan.upgrades and self._carrier is None and not relays.isdisjoint((_State.RUNNING, _State.READY))

    def _name_next(self, elapsed_s: float) -> list[Action]:
        if _State.NAMED in self._states.values():
            return []
        ready = [combo for combo, state in self._states.items() if state is _State.READY]
        if self._relay_comes and elapsed_s < RELAY_AWAITED_S:
            ready = [combo for combo in ready if combo in self._relays]
        ready.sort(key=self._relays.__contains__)
        for combo in ready[:1]:
            self._states[combo] = _State.NAMED
            return [Move(combo) if self._carrier else Name(combo)]
        return []

    def _finish(self, cancel_reason: Reason, reason: Reason | None) -> list[Action]:
        self.finished = True
        winner = self._winner or self._carrier
        at_rest = (_State.ENDED, _State.CARRYING)
        live = [c for c, state in self._states.items() if state not in at_rest and c != self._winner]
        reason = None if winner else reason
        unneeded = reason or Reason.NOT_NEEDED
        untried = [
            Skipped(planned.combo, phase.phase, unneeded, planned.advice)
            for batch in self._batches
            for phase, planned in self._unstarted(batch)
        ]
        return [*(Cancel(combo, cancel_reason) for combo in live), Finish(winner, reason, tuple(untried))]
