"""Plans of four combos."""

from collections.abc import Collection

from hypothesis import strategies as st
from policy_numbers import EXT

from warpfleet.core.combo import Combo, Phase
from warpfleet.core.plan import PhasePlan, Plan, Planned, WalkNumbers

A, B, C, D = (Combo(name, 4, EXT) for name in "abcd")
COMBOS = (A, B, C, D)
PLACES = st.tuples(*(st.sampled_from(list(Phase)) for _ in COMBOS))


def plan(numbers: WalkNumbers, *, long_shots: Collection[Combo] = (), **phases: tuple[Combo, ...]) -> Plan:
    """`plan(STRICT, direct=(A,), relay=(B,))`."""

    def phase_plan(phase: Phase) -> PhasePlan:
        timing = numbers.timings[phase]
        combos = phases.get(phase.value, ())
        planned = tuple(Planned(combo, timing.start_s, combo in long_shots) for combo in combos)
        return PhasePlan(phase, timing.timeout_s, planned)

    phases_by_start = sorted(Phase, key=lambda phase: numbers.timings[phase].start_s or 0)
    return Plan(tuple(map(phase_plan, phases_by_start)), (), numbers.deadline_s, numbers.upgrades)
