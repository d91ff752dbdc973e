"""The staggered walk, on exact times: phases that overlap, long shots, and combos that were moved."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_numbers import DIRECT, PUNCH, RELAY, SPRAY, STAGGERED, STRICT
from walk_plans import COMBOS, PLACES, A, B, C, D, plan

from warpfleet.core.combo import Combo, Phase, Reason
from warpfleet.core.plan import PhasePlan, Plan, Planned, Skipped, WalkNumbers
from warpfleet.core.walk import Cancel, Finish, Name, Start, Walk


def test_staggered_starts_each_phase_at_its_time() -> None:
    walk = Walk(plan(STAGGERED, direct=(A,), spray=(B,), relay=(C,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5)]
    assert (walk.next_wakeup_s(), walk.advance(0.299)) == (0.3, [])
    assert walk.advance(0.3) == [Start(B, SPRAY, 15)]
    assert (walk.next_wakeup_s(), walk.advance(2.4)) == (2.5, [])
    assert walk.advance(2.5) == [Start(C, RELAY, 10)]
    assert walk.next_wakeup_s() == 30


def test_staggered_starts_the_next_phase_sooner_where_nothing_is_left() -> None:
    walk = Walk(plan(STAGGERED, direct=(A,), spray=(B,), relay=(C,)))
    walk.advance(0)
    walk.ended(A)
    assert walk.advance(0.1) == [Start(B, SPRAY, 15)]
    walk.ended(B)
    assert walk.advance(0.2) == [Start(C, RELAY, 10)]


def test_empty_phases_cost_no_time() -> None:
    assert Walk(plan(STRICT, relay=(C,))).advance(0) == [Start(C, RELAY, 5)]
    assert Walk(plan(STAGGERED, relay=(C,))).advance(0) == [Start(C, RELAY, 10)]


def test_the_first_ready_pipe_is_named_and_wins() -> None:
    walk = Walk(plan(STAGGERED, direct=(A, B), relay=(C,)))
    walk.advance(0)
    walk.ready(B)
    assert walk.advance(0.1) == [Name(B)]
    walk.ready(A)
    assert walk.advance(0.11) == []
    walk.agreed(B)
    assert walk.advance(0.2) == [
        Cancel(A, Reason.OTHER_PIPE_WON),
        Finish(B, None, (Skipped(C, RELAY, Reason.NOT_NEEDED),)),
    ]
    assert walk.advance(0.3) == []


def test_a_named_pipe_that_dies_makes_room_for_the_next() -> None:
    walk = Walk(plan(STAGGERED, direct=(A, B)))
    walk.advance(0)
    walk.ready(A)
    walk.ready(B)
    assert walk.advance(0.1) == [Name(A)]
    walk.ended(A)
    assert walk.advance(0.2) == [Name(B)]


def test_a_long_shot_is_tried_and_not_waited_for() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), spray=(B,), relay=(C,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5), Start(B, SPRAY, 15)]
    walk.ended(B)
    assert walk.advance(0.2) == [Start(C, RELAY, 10)]


def test_where_all_else_has_failed_the_long_shot_is_waited_for() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), relay=(C,)))
    walk.advance(0)
    walk.ended(C)
    assert walk.advance(1) == []
    walk.ready(A)
    assert walk.advance(2) == [Name(A)]
    walk.agreed(A)
    assert walk.advance(2.1) == [Finish(A, None, ())]


def test_where_the_long_shot_fails_too_the_walk_ends() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), relay=(C,)))
    walk.advance(0)
    walk.ended(C)
    walk.advance(1)
    walk.ended(A)
    assert walk.advance(5) == [Finish(None, Reason.ALL_FAILED, ())]


def test_a_long_shot_that_is_ready_is_worth_waiting_for() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), spray=(B,), relay=(C,)))
    walk.advance(0)
    walk.ready(A)
    walk.ended(B)
    assert walk.advance(0.2) == [Name(A)]


MOVED = Plan(
    (
        PhasePlan(DIRECT, 5, (Planned(A, 0),)),
        PhasePlan(SPRAY, 15, (Planned(B, 0.59, advice="why"), Planned(C, 0.3))),
    ),
    (),
    30,
)


def test_what_was_moved_starts_at_its_new_time() -> None:
    walk = Walk(MOVED)
    walk.advance(0)
    assert (walk.next_wakeup_s(), walk.advance(0.3)) == (0.3, [Start(C, SPRAY, 15)])
    assert (walk.next_wakeup_s(), walk.advance(0.59)) == (0.59, [Start(B, SPRAY, 15, "why")])


def test_what_was_moved_starts_sooner_where_nothing_earlier_is_left() -> None:
    walk = Walk(MOVED)
    walk.advance(0)
    walk.ended(A)
    assert walk.advance(0.1) == [Start(C, SPRAY, 15)]
    walk.ended(C)
    assert walk.advance(0.2) == [Start(B, SPRAY, 15, "why")]


def test_a_later_phase_may_start_first() -> None:
    walk = Walk(plan(STAGGERED, punch=(A,), spray=(B,)))
    assert walk.advance(0) == [Start(B, SPRAY, 15)]
    assert (walk.next_wakeup_s(), walk.advance(1.0)) == (1.0, [Start(A, PUNCH, 10)])


def test_what_was_moved_and_then_not_needed_says_why() -> None:
    walk = Walk(MOVED)
    walk.advance(0.3)
    walk.ready(A)
    walk.advance(0.4)
    walk.agreed(A)
    *_, finish = walk.advance(0.5)
    assert finish == Finish(A, None, (Skipped(B, SPRAY, Reason.NOT_NEEDED, "why"),))


@given(
    st.sampled_from([STRICT, STAGGERED]),
    PLACES,
    st.sets(st.sampled_from(COMBOS)),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(COMBOS)), max_size=12),
)
def test_a_long_shot_delays_no_other_start(
    numbers: WalkNumbers, places: tuple[Phase, ...], long_shots: set[Combo], ends: list[tuple[float, Combo]]
) -> None:
    def starts(combos: Collection[Combo]) -> dict[Combo, float]:
        """When each of these is started, while attempts fail as drawn."""
        phases = {
            p.value: tuple(c for c, q in zip(COMBOS, places, strict=True) if p is q and c in combos) for p in Phase
        }
        walk = Walk(plan(numbers, long_shots=long_shots, **phases))
        begun: dict[Combo, float] = {}
        now_s = 0.0
        for wait_s, combo in [(0.0, None), *ends, (numbers.deadline_s, None)]:
            now_s += wait_s
            while (wakeup_s := walk.next_wakeup_s()) < now_s and not walk.finished:
                begun |= {a.combo: wakeup_s for a in walk.advance(wakeup_s) if isinstance(a, Start)}
            if combo is not None:
                walk.ended(combo)
            begun |= {a.combo: now_s for a in walk.advance(now_s) if isinstance(a, Start)}
        return begun

    others = set(COMBOS) - long_shots
    with_them, without = starts(COMBOS), starts(others)
    assert {c: with_them[c] for c in with_them if c in others} == pytest.approx(without)


def test_the_wakeups_alone_carry_a_walk_to_its_deadline() -> None:
    walk = Walk(plan(STAGGERED, direct=(A,), punch=(B,), spray=(C,), relay=(D,)))
    times = []
    now_s = 0.0
    while not walk.finished:
        times.append((now_s, [a.combo for a in walk.advance(now_s) if isinstance(a, Start)]))
        now_s = walk.next_wakeup_s()
    assert times == [(0, [A]), (0.3, [C]), (1.0, [B]), (2.5, [D]), (30, [])]
