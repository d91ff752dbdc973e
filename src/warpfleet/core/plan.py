"""The plan for one pair: what is tried, when, and what is left out, and why. A pure value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from warpfleet.core.advice import Advisor, Expected
from warpfleet.core.combo import Combo, Phase, Reason, RouteType, Transport
from warpfleet.core.experience import NO_EXPERIENCE, Experience, Inbound, Subject, round_trip_of, subject_of
from warpfleet.core.pairing import DIALS, Requirement, impossible, ruled_out
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView

# What experience promises may fail to come. Most of it comes within a second of a phase's usual start; a relay, which
# starts 2.5 s after the walk began, is to be held up by no more than 3 s in all.
_MOVED_MAX_S = 0.5
# Beside a combo of which there is no doubt, no other by way of the internet starts before that has had its time, on a
# path of 200 ms: SYN, the proof, and what a busy host adds. What it might have won would only have cost both ends.
_SURE_S = 0.6
_NEAR_S = 0.1  # what is dialled inside one network is there by then, or not where both ends believe


@dataclass(frozen=True, slots=True)
class PhaseTiming:
    """When a phase starts after the walk began (None: only once every earlier attempt has ended), and how long its
    attempts may take, both in seconds."""

    start_s: float | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class WalkNumbers:
    """What sets one policy apart from another. Where it `upgrades`, a direct path is sought although a relayed pipe is
    there, and the pipe moves to it."""

    timings: Mapping[Phase, PhaseTiming]
    skip_ruled_out: bool
    deadline_s: float
    upgrades: bool = False

    def sought_beside(self, phase: Phase) -> bool:
        """Whether what else is tried neither waits for this phase nor makes it wait."""
        return self.upgrades and phase is Phase.RELAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """What the planner knows of a plugin. `phase` is None for one that only runs when it is pinned."""

    plugin: str
    phase: Phase | None
    transport: Transport
    requirement: Requirement
    routes: tuple[RouteType, ...]
    families: tuple[AddressFamily, ...] = ADDRESS_FAMILIES

    @property
    def walked_in(self) -> Phase:
        """The phase in which it is tried."""
        return self.phase or Phase.DIRECT


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
    """A combo that is not tried, and why. `advice` is what experience had to say, for people."""

    combo: Combo
    phase: Phase
    reason: Reason
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A combo that is tried `start_s` seconds after the walk began, or sooner where nothing earlier is left (None: only
    then). A long shot is never waited for. `advice` is why experience moved it, for people; `rtt_ms` is the round trip
    that its pipe is known to have."""

    combo: Combo
    start_s: float | None
    long_shot: bool = False
    advice: str | None = None
    rtt_ms: float | None = None


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """The combos of one phase, whose attempts may take `timeout_s` each. A plan has its phases in the order in which
    they start: those without a time of their own after those that have one."""

    phase: Phase
    timeout_s: float
    combos: tuple[Planned, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried for one pair, in which order, and what is not. Where it `upgrades`, a relayed pipe does not end the
    walk."""

    phases: tuple[PhasePlan, ...]
    skipped: tuple[Skipped, ...]
    deadline_s: float
    upgrades: bool = False


def make_plan(
    techniques: Sequence[Technique],
    numbers: WalkNumbers,
    mine: PeerView,
    theirs: PeerView,
    pin: Pin = Pin(),
    *,
    unavailable: Mapping[str, Reason] | None = None,
    experience: Experience = NO_EXPERIENCE,
) -> Plan:
    """Plan the walk for one pair. A pinned technique without a phase walks in the direct phase.

    `unavailable` has the plugins that cannot serve the initiator, and why. Policies that skip what is ruled out heed
    `experience`, unless it would leave nothing to try.
    """
    possible, skipped = _possible(techniques, numbers, mine, theirs, pin, unavailable=unavailable or {})
    if not numbers.skip_ruled_out:
        return Plan(_phases(possible, numbers, None), tuple(skipped), numbers.deadline_s, numbers.upgrades)
    advisor = Advisor(experience, mine, theirs)
    against = {combo: advice for t, combo in possible if (advice := advisor.against(t.requirement, combo))}
    if len(against) < len(possible):
        why = Reason.EXPERIENCE_RULES_OUT
        skipped += [Skipped(c, t.walked_in, why, against[c]) for t, c in possible if c in against]
        possible = [(t, c) for t, c in possible if c not in against]
    return Plan(_phases(possible, numbers, advisor), tuple(skipped), numbers.deadline_s, numbers.upgrades)


def long_shots(
    techniques: Mapping[str, Technique], plan: Plan, mine: PeerView, theirs: PeerView, realm: str
) -> list[Subject]:
    """What the long shots of a plan will have found out."""
    planned = [planned.combo for phase in plan.phases for planned in phase.combos if planned.long_shot]
    found = (subject_of(techniques[combo.plugin].requirement, combo, mine, theirs, realm) for combo in planned)
    return [subject for subject in found if subject]


def subjects(
    techniques: Sequence[Technique], numbers: WalkNumbers, mine: PeerView, theirs: PeerView, pin: Pin, *, realm: str
) -> list[Subject]:
    """What the plan of this pair may ask experience about."""
    if not numbers.skip_ruled_out:
        return []
    possible, _ = _possible(techniques, numbers, mine, theirs, pin, unavailable={})
    dialling = [t.plugin for t in techniques if t.requirement in DIALS]
    found: dict[Subject, None] = {}
    for technique, combo in possible:
        subject = subject_of(technique.requirement, combo, mine, theirs, realm)
        if isinstance(subject, Inbound):
            found.update(dict.fromkeys(Inbound(subject.exit, plugin) for plugin in dialling))
        elif subject and technique.requirement is not Requirement.RELAY:
            found[subject] = None
        round_trip = round_trip_of(combo, mine, theirs, realm)
        if round_trip and technique.transport is Transport.UDP:  # TCP paces itself
            found[round_trip] = None
    return list(found)


def _possible(
    techniques: Sequence[Technique],
    numbers: WalkNumbers,
    mine: PeerView,
    theirs: PeerView,
    pin: Pin,
    *,
    unavailable: Mapping[str, Reason],
) -> tuple[list[tuple[Technique, Combo]], list[Skipped]]:
    """The combos that the caller wants: those that can be formed and that theory does not rule out, and the others."""
    possible: list[tuple[Technique, Combo]] = []
    skipped: list[Skipped] = []
    for technique in techniques:
        for combo in _combos(technique):
            if not pin.admits(technique, combo):
                continue
            reason = unavailable.get(combo.plugin) or impossible(technique.requirement, combo, mine, theirs)
            if reason is None and numbers.skip_ruled_out:
                reason = ruled_out(technique.requirement, combo, mine, theirs)
            if reason:
                skipped.append(Skipped(combo, technique.walked_in, reason))
            else:
                possible.append((technique, combo))
    return possible, skipped


def _combos(technique: Technique) -> list[Combo]:
    return [Combo(technique.plugin, af, route) for af in technique.families for route in technique.routes]


def _phases(
    possible: Sequence[tuple[Technique, Combo]], numbers: WalkNumbers, advisor: Advisor | None
) -> tuple[PhasePlan, ...]:
    """The phases as they start; what the advisor expects of the earlier ones moves the combos of a phase."""
    likely = [(t, c) for t, c in possible if not (advisor and advisor.is_long_shot(t.requirement, c))]
    sure = {c for t, c in possible if advisor and advisor.is_sure(t.requirement, c)}
    plans: list[PhasePlan] = []
    expected: list[Expected] = []
    for phase in sorted(Phase, key=lambda phase: _time(numbers.timings[phase])):
        timing = numbers.timings[phase]
        beside = numbers.sought_beside(phase)
        soonest = None if beside else min(expected, default=None)
        combos: list[Planned] = []
        for technique, combo in possible:
            if technique.walked_in is not phase:
                continue
            long_shot = advisor is not None and advisor.is_long_shot(technique.requirement, combo)
            rtt_ms = advisor.rtt_ms(combo) if advisor else None
            start_s = _start_s(technique, numbers, likely)
            if sure and start_s is not None and combo.route is RouteType.EXT and phase is not Phase.RELAY:
                start_s = 0.0 if combo in sure else max(start_s, _SURE_S)
            planned = _moved(Planned(combo, start_s, long_shot, rtt_ms=rtt_ms), soonest)
            combos.append(planned)
            if advisor and planned.start_s is not None and not beside:
                promise = advisor.expected(technique.requirement, combo, planned.start_s)
                expected += [promise] if promise else []
        plans.append(PhasePlan(phase, timing.timeout_s, tuple(combos)))
    return tuple(plans)


def _time(timing: PhaseTiming) -> float:
    return inf if timing.start_s is None else timing.start_s


def _start_s(technique: Technique, numbers: WalkNumbers, likely: Sequence[tuple[Technique, Combo]]) -> float | None:
    """When the combos of a technique start, beside those that are likely to work."""
    start_s = numbers.timings[technique.walked_in].start_s
    if start_s is None:
        return None
    if technique.requirement is Requirement.GUESSABLE:  # hundreds of packets give way to a few
        others = any(t.requirement not in (Requirement.GUESSABLE, Requirement.RELAY) for t, _ in likely)
        return max(start_s, numbers.timings[Phase.PUNCH].start_s or 0) if others else start_s
    if technique.walked_in is Phase.SPRAY:
        dialled = {c.route for t, c in likely if t.walked_in is Phase.DIRECT}
        return min(start_s, _NEAR_S) if dialled and RouteType.EXT not in dialled else start_s
    return start_s


def _moved(planned: Planned, expected: Expected | None) -> Planned:
    """The same, later, so that it need not be started where an earlier pipe comes as expected."""
    if expected is None or planned.start_s is None or expected.by_s <= planned.start_s:
        return planned
    start_s = min(expected.by_s, planned.start_s + _MOVED_MAX_S)
    advice = f"moved from {planned.start_s:.2f} s to {start_s:.2f} s: {expected.why}"
    return replace(planned, start_s=start_s, advice=advice)
