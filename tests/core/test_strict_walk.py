"""The strict walk, on exact times: one phase after the other, and how it ends."""

from policy_numbers import DIRECT, RELAY, STRICT
from walk_plans import A, B, C, plan

from warpfleet.core.combo import Reason
from warpfleet.core.plan import Skipped
from warpfleet.core.walk import Cancel, Finish, Start, Walk


def test_strict_starts_a_phase_only_when_all_of_the_earlier_one_has_ended() -> None:
    walk = Walk(plan(STRICT, direct=(A, B), relay=(C,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5), Start(B, DIRECT, 5)]
    walk.ended(A)
    assert walk.advance(40) == []
    walk.ended(B)
    assert walk.advance(40.5) == [Start(C, RELAY, 5)]
    assert walk.next_wakeup_s() == 45
    walk.ended(C)
    assert walk.advance(41) == [Finish(None, Reason.ALL_FAILED, ())]


def test_nothing_to_try_ends_at_once() -> None:
    assert Walk(plan(STRICT)).advance(0) == [Finish(None, Reason.NOTHING_TO_TRY, ())]


def test_the_deadline_cancels_what_runs() -> None:
    walk = Walk(plan(STRICT, direct=(A,), relay=(B,)))
    walk.advance(0)
    assert walk.advance(44.999) == []
    assert walk.advance(45) == [
        Cancel(A, Reason.DEADLINE),
        Finish(None, Reason.DEADLINE, (Skipped(B, RELAY, Reason.DEADLINE),)),
    ]


def test_a_pipe_that_both_ends_agree_on_wins_even_at_the_deadline() -> None:
    walk = Walk(plan(STRICT, direct=(A,)))
    walk.advance(0)
    walk.ready(A)
    walk.advance(1)
    walk.agreed(A)
    walk.stop(Reason.STOPPED)
    assert walk.advance(45) == [Finish(A, None, ())]


def test_stopped_before_it_began_it_starts_nothing() -> None:
    walk = Walk(plan(STRICT, direct=(A,)))
    walk.stop(Reason.STOPPED)
    walk.stop(Reason.DEADLINE)
    assert walk.advance(0) == [Finish(None, Reason.STOPPED, (Skipped(A, DIRECT, Reason.STOPPED),))]
