"""The phase walk: a plan for one pair, and the state machine that walks it. Given the time, never taking it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from warpfleet.core.combo import Combo, Phase, Reason, RouteType, Transport
from warpfleet.core.pairing import Requirement, impossible, ruled_out
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView


@dataclass(frozen=True, slots=True)
class PhaseTiming:
    """When a phase starts after the walk began (None: only once every earlier attempt has ended), and how long its
    attempts may take, both in seconds."""

    start_s: float | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class WalkNumbers:
    """What sets one policy apart from another."""

    timings: Mapping[Phase, PhaseTiming]
    skip_ruled_out: bool
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """What the planner knows of a plugin. `phase` is None for one that only runs when it is pinned."""

    plugin: str
    phase: Phase | None
    transport: Transport
    requirement: Requirement
    routes: tuple[RouteType, ...]
    families: tuple[AddressFamily, ...] = ADDRESS_FAMILIES


@dataclass(frozen=True, slots=True)
class Pin:
    """What the caller pinned; None leaves it open."""

    plugin: str | None = None
    af: AddressFamily | None = None
    route: RouteType | None = None

    def admits(self, technique: Technique, combo: Combo) -> bool:
        """Whether a combo is among those that the caller wants."""
        wanted_plugin = technique.phase is not None if self.plugin is None else combo.plugin == self.plugin
        return wanted_plugin and self.af in (None, combo.af) and self.route in (None, combo.route)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A combo that is not tried, and why."""

    combo: Combo
    phase: Phase
    reason: Reason


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """The combos of one phase."""

    phase: Phase
    timing: PhaseTiming
    combos: tuple[Combo, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried for one pair, in which order, and what is not."""

    phases: tuple[PhasePlan, ...]
    skipped: tuple[Skipped, ...]
    deadline_s: float


def make_plan(
    techniques: Sequence[Technique],
    numbers: WalkNumbers,
    mine: PeerView,
    theirs: PeerView,
    pin: Pin = Pin(),
    *,
    unavailable: Mapping[str, Reason] | None = None,
) -> Plan:
    """Plan the walk for one pair. A pinned technique without a phase walks in the direct phase.

    `unavailable` has the plugins that cannot serve the initiator, and why.
    """
    chosen: dict[Phase, list[Combo]] = {phase: [] for phase in Phase}
    skipped: list[Skipped] = []
    for technique in techniques:
        phase = technique.phase or Phase.DIRECT
        for combo in _combos(technique):
            if not pin.admits(technique, combo):
                continue
            reason = (unavailable or {}).get(combo.plugin) or impossible(technique.requirement, combo, mine, theirs)
            if reason is None and numbers.skip_ruled_out:
                reason = ruled_out(technique.requirement, combo, mine, theirs)
            if reason:
                skipped.append(Skipped(combo, phase, reason))
            else:
                chosen[phase].append(combo)
    phases = tuple(PhasePlan(phase, numbers.timings[phase], tuple(chosen[phase])) for phase in Phase)
    return Plan(phases, tuple(skipped), numbers.deadline_s)


def _combos(technique: Technique) -> list[Combo]:
    return [Combo(technique.plugin, af, route) for af in technique.families for route in technique.routes]


@dataclass(frozen=True, slots=True)
class Start:
    """Start an attempt of this combo."""

    combo: Combo
    phase: Phase
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Name:
    """Name the pipe of this combo the winner; the attempt then gets the peer's agreement or fails."""

    combo: Combo


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the attempt of this combo."""

    combo: Combo
    reason: Reason


@dataclass(frozen=True, slots=True)
class Finish:
    """The walk is over. Without a winner there is a reason; `untried` are the combos that were never started."""

    winner: Combo | None
    reason: Reason | None
    untried: tuple[Skipped, ...]


Action = Start | Name | Cancel | Finish


class _State(Enum):
    RUNNING = "running"
    READY = "ready"  # both ends proved; waits to be named
    NAMED = "named"
    ENDED = "ended"


class Walk:
    """Walks one plan. Feed it what happens to the attempts, then ask `advance` what to do. Times are seconds since the
    walk began."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._states: dict[Combo, _State] = {}
        self._winner: Combo | None = None
        self._stopped: Reason | None = None
        self.finished = False

    def ready(self, combo: Combo) -> None:
        """Both ends of this attempt's pipe have proved themselves."""
        if self._states.get(combo) is _State.RUNNING:
            self._states[combo] = _State.READY

    def agreed(self, combo: Combo) -> None:
        """Both ends agree that this pipe is the winner."""
        if self._states.get(combo) is _State.NAMED:
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
        actions = self._start_due(elapsed_s)
        actions += self._name_next()
        if not actions and all(state is _State.ENDED for state in self._states.values()):
            return self._finish(Reason.ALL_FAILED, Reason.ALL_FAILED if self._states else Reason.NOTHING_TO_TRY)
        return actions

    def next_wakeup_s(self) -> float:
        """When `advance` has to be called at the latest although nothing happens."""
        waiting = [p.timing.start_s for p in self._plan.phases if p.timing.start_s is not None and self._unstarted(p)]
        return min([*waiting, self._plan.deadline_s])

    def _start_due(self, elapsed_s: float) -> list[Action]:
        actions: list[Action] = []
        for phase in self._plan.phases:
            timing = phase.timing
            on_time = timing.start_s is not None and elapsed_s >= timing.start_s
            if on_time or all(state is _State.ENDED for state in self._states.values()):
                for combo in self._unstarted(phase):
                    self._states[combo] = _State.RUNNING
                    actions.append(Start(combo, phase.phase, timing.timeout_s))
        return actions

    def _unstarted(self, phase: PhasePlan) -> list[Combo]:
        return [combo for combo in phase.combos if combo not in self._states]

    def _name_next(self) -> list[Action]:
        if _State.NAMED in self._states.values():
            return []
        for combo, state in self._states.items():
            if state is _State.READY:
                self._states[combo] = _State.NAMED
                return [Name(combo)]
        return []

    def _finish(self, cancel_reason: Reason, reason: Reason | None) -> list[Action]:
        self.finished = True
        live = [c for c, state in self._states.items() if state is not _State.ENDED and c != self._winner]
        unneeded = Reason.NOT_NEEDED if self._winner else (reason or Reason.NOT_NEEDED)
        untried = [Skipped(c, p.phase, unneeded) for p in self._plan.phases for c in self._unstarted(p)]
        return [*(Cancel(combo, cancel_reason) for combo in live), Finish(self._winner, reason, tuple(untried))]
