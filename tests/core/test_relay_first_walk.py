"""The relay_first walk, on exact times: a relayed pipe at once, which moves to the first direct path."""

import pytest
from policy_numbers import DIRECT, RELAY, RELAY_FIRST, SPRAY
from walk_plans import A, B, C, D, plan

from warpfleet.core.combo import Reason
from warpfleet.core.walk import RELAY_AWAITED_S, Cancel, Finish, Move, Name, Start, Walk


def carried() -> Walk:
    """A walk whose relayed pipe, D, is in use since 0.2 s, while A is under way."""
    walk = Walk(plan(RELAY_FIRST, direct=(A,), spray=(B,), relay=(D,)))
    walk.advance(0)
    walk.ready(D)
    assert walk.advance(0.1) == [Name(D)]
    walk.agreed(D)
    return walk


def test_a_relay_starts_beside_the_rest_which_does_not_wait_for_it() -> None:
    walk = Walk(plan(RELAY_FIRST, long_shots=(A,), direct=(A,), spray=(B,), relay=(D,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5), Start(D, RELAY, 10), Start(B, SPRAY, 15)]


def test_a_relayed_pipe_does_not_end_the_walk() -> None:
    walk = carried()
    assert (walk.advance(0.2), walk.next_wakeup_s()) == ([], 0.3)
    assert walk.advance(0.3) == [Start(B, SPRAY, 15)]


def test_a_relayed_pipe_in_use_moves_to_the_first_direct_path() -> None:
    walk = carried()
    walk.advance(0.3)
    walk.ready(B)
    assert walk.advance(0.4) == [Move(B)]
    walk.agreed(B)
    assert walk.advance(0.5) == [Cancel(A, Reason.OTHER_PIPE_WON), Finish(B, None, ())]


def test_a_direct_path_that_dies_as_the_pipe_is_to_move_makes_room_for_the_next() -> None:
    walk = carried()
    walk.advance(0.3)
    walk.ready(A)
    walk.ready(B)
    assert walk.advance(0.4) == [Move(A)]
    walk.ended(A)
    assert walk.advance(0.5) == [Move(B)]


def test_a_direct_path_that_comes_before_the_relay_waits_for_it() -> None:
    walk = Walk(plan(RELAY_FIRST, direct=(A,), relay=(D,)))
    walk.advance(0)
    walk.ready(A)
    assert (walk.advance(0.1), walk.next_wakeup_s()) == ([], RELAY_AWAITED_S)
    walk.ready(D)
    assert walk.advance(0.2) == [Name(D)]
    walk.agreed(D)
    assert walk.advance(0.3) == [Move(A)]


@pytest.mark.parametrize("fails", [True, False])
def test_a_direct_path_waits_for_no_relay_that_fails_or_takes_long(fails: bool) -> None:
    walk = Walk(plan(RELAY_FIRST, direct=(A,), relay=(D,)))
    walk.advance(0)
    walk.ready(A)
    assert walk.advance(0.1) == []
    if fails:
        walk.ended(D)
    assert walk.advance(0.2 if fails else RELAY_AWAITED_S) == [Name(A)]
    assert walk.next_wakeup_s() == 30, "the deadline"
    walk.agreed(A)
    assert walk.advance(2) == [Cancel(D, Reason.OTHER_PIPE_WON)] * (not fails) + [Finish(A, None, ())]


def test_the_walk_of_a_relayed_pipe_ends_when_nothing_direct_is_left() -> None:
    walk = carried()
    walk.ended(A)
    assert walk.advance(0.2) == [Start(B, SPRAY, 15)]
    walk.ended(B)
    assert walk.advance(0.4) == [Finish(D, None, ())]


def test_the_deadline_ends_the_search_and_leaves_the_relayed_pipe() -> None:
    walk = carried()
    walk.advance(0.3)
    assert walk.advance(30) == [Cancel(A, Reason.DEADLINE), Cancel(B, Reason.DEADLINE), Finish(D, None, ())]


def test_of_several_relays_one_is_enough() -> None:
    walk = Walk(plan(RELAY_FIRST, spray=(A,), relay=(B, C, D)))
    assert walk.advance(0) == [Start(B, RELAY, 10), Start(C, RELAY, 10), Start(D, RELAY, 10), Start(A, SPRAY, 15)]
    walk.ready(B)
    walk.ready(C)
    assert walk.advance(0.1) == [Name(B)]
    walk.agreed(B)
    assert walk.advance(0.2) == [Cancel(C, Reason.OTHER_PIPE_WON), Cancel(D, Reason.OTHER_PIPE_WON)]
    walk.ready(D)
    assert walk.advance(0.3) == []
