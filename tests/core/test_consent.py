"""Consent on a direct path, on exact times: when it is checked, left, used again, and given up."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warpfleet.core.consent import (
    EXPIRY_S,
    HOLD_MAX_S,
    HOLD_S,
    LEFT_AFTER_S,
    LEFT_IN_USE_AFTER_S,
    Consent,
    State,
)

RTT_S = 0.08


class Path:
    """A path that answers checks while it is `up`, and what its consent does about it."""

    def __init__(self, *, chance: Callable[[], float] = lambda: 0.5, rtt_s: float = RTT_S) -> None:
        self.now_s = 100.0
        self.consent = Consent(self.now_s, chance)
        self.up = True
        self.answered_s = self.now_s
        self.checked_s: list[float] = []
        self.states: list[tuple[float, State]] = []
        self._rtt_s = rtt_s
        self._answers_s: list[float] = []

    def run(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        while True:
            at_s = min([self.consent.due_s(), *self._answers_s[:1]])
            if at_s > end_s:
                break
            self.now_s = at_s
            if self._answers_s and self._answers_s[0] <= at_s:
                self._answers_s.pop(0)
                self.consent.answered(at_s)
                self.answered_s = at_s
            elif self.consent.advance(at_s):
                self.checked_s.append(at_s)
                self._answers_s += [at_s + self._rtt_s] if self.up else []
            if not self.states or self.states[-1][1] is not self.consent.state:
                self.states.append((at_s, self.consent.state))
        self.now_s = end_s

    def wait_for(self, state: State, within_s: float) -> float:
        """How long it takes to become that."""
        began_s = self.now_s
        while self.consent.state is not state:
            assert self.now_s - began_s < within_s, f"still {self.consent.state}"
            self.run(0.01)
        return self.now_s - began_s


@pytest.mark.parametrize(("chance", "interval_s"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_a_good_path_is_checked_every_5_s_give_or_take_a_fifth(chance: float, interval_s: float) -> None:
    path = Path(chance=lambda: chance)
    path.run(60)
    assert path.checked_s[0] == pytest.approx(100 + interval_s)
    gaps = [later - sooner for sooner, later in pairwise(path.checked_s)]
    assert gaps == pytest.approx([interval_s + RTT_S] * len(gaps))
    assert path.consent.state is State.GOOD


def test_one_lost_check_is_repeated_and_changes_nothing() -> None:
    path = Path()
    path.up = False
    path.run(5.2)
    path.up = True
    path.run(1)
    assert path.checked_s == pytest.approx([105.0, 105.5])
    assert path.consent.state is State.GOOD
    path.run(5)
    assert path.checked_s[2:] == pytest.approx([105.5 + RTT_S + 5])


def test_a_path_that_dies_is_left_after_four_checks_in_vain() -> None:
    path = Path(chance=lambda: 1.0)
    path.up = False
    assert path.wait_for(State.DOUBTFUL, 30) == pytest.approx(LEFT_AFTER_S, abs=0.02)
    assert path.checked_s == pytest.approx([106.0, 106.5, 107.0, 107.5, 108.0])


def test_silence_after_something_was_sent_is_checked_at_once() -> None:
    path = Path()
    path.up = False
    path.consent.sent(path.now_s)
    path.consent.sent(path.now_s + 0.9)
    assert path.wait_for(State.DOUBTFUL, 30) == pytest.approx(LEFT_IN_USE_AFTER_S, abs=0.02)
    assert path.checked_s[0] == pytest.approx(101.0)


def test_what_is_heard_calms_but_is_no_consent() -> None:
    path = Path()
    path.up = False
    path.consent.sent(path.now_s)
    path.consent.heard()
    path.run(4.9)
    assert path.checked_s == []
    for _ in range(30):
        path.run(0.1)
        path.consent.heard()
    assert path.consent.state is State.DOUBTFUL


def test_a_path_on_a_slow_way_is_good() -> None:
    path = Path(rtt_s=1.4)
    path.run(100)
    assert path.states == [(pytest.approx(105), State.GOOD)]


def test_a_path_that_was_left_is_used_again_once_it_has_been_good_for_a_while() -> None:
    path = Path()
    path.up = False
    path.wait_for(State.DOUBTFUL, 30)
    path.up = True
    waited_s = path.wait_for(State.GOOD, 60)
    assert HOLD_S <= waited_s <= HOLD_S + 2 * 6.1


def test_a_check_that_is_not_answered_starts_the_wait_anew() -> None:
    path = Path()
    path.up = False
    path.wait_for(State.DOUBTFUL, 30)
    path.up = True
    path.run(11)
    path.up = False
    path.run(5)
    path.up = True
    assert path.wait_for(State.GOOD, 60) >= HOLD_S


def test_each_return_takes_twice_as_long_up_to_a_bound() -> None:
    path, waits_s = Path(), []
    for _ in range(8):
        path.up = False
        path.wait_for(State.DOUBTFUL, 30)
        path.up = True
        waits_s.append(path.wait_for(State.GOOD, 400))
    expected_s = [min(HOLD_S * 2**n, HOLD_MAX_S) for n in range(8)]
    assert all(hold_s <= wait_s <= hold_s + 12.2 for hold_s, wait_s in zip(expected_s, waits_s, strict=True))


def test_a_path_that_has_been_good_for_long_starts_anew() -> None:
    path = Path()
    for good_s in (0.0, HOLD_MAX_S + 6):
        path.run(good_s)
        path.up = False
        path.wait_for(State.DOUBTFUL, 30)
        path.up = True
        waited_s = path.wait_for(State.GOOD, 60)
        assert waited_s <= HOLD_S + 12.2


def test_consent_expires_30_s_after_the_last_answer_and_never_comes_back() -> None:
    path = Path()
    path.run(20)
    path.up = False
    path.wait_for(State.EXPIRED, 40)
    assert path.now_s == pytest.approx(path.answered_s + EXPIRY_S, abs=0.02)
    checks = len(path.checked_s)
    path.up = True
    path.consent.answered(path.now_s)
    path.run(100)
    assert (path.consent.state, len(path.checked_s)) == (State.EXPIRED, checks)


def test_a_machine_that_slept_has_no_consent() -> None:
    path = Path()
    assert not path.consent.advance(path.now_s + 31)
    assert path.consent.state is State.EXPIRED


_EVENTS = st.lists(st.tuples(st.sampled_from(["up", "down", "sent", "heard"]), st.floats(0, 20)), max_size=40)


@given(_EVENTS, st.floats(0, 1))
@example([("up", 4.0), ("down", 11.0), ("down", 20.0)], 0.0)  # 30 s after 104.08 s, by floats, are not quite over
def test_whatever_happens_it_neither_floods_nor_flaps_nor_sends_without_consent(
    events: list[tuple[str, float]], chance: float
) -> None:
    path = Path(chance=lambda: chance)
    for what, duration_s in events:
        if what == "sent":
            path.consent.sent(path.now_s)
        elif what == "heard":
            path.consent.heard()
        else:
            path.up = what == "up"
        path.run(duration_s)
        assert path.consent.state is State.EXPIRED or path.now_s - path.answered_s < EXPIRY_S
    gaps = [later - sooner for sooner, later in pairwise(path.checked_s)]
    assert all(gap_s >= 0.5 - 1e-6 for gap_s in gaps)
    returns_s = [at_s for at_s, state in path.states if state is State.GOOD]
    assert all(later - sooner >= HOLD_S for sooner, later in pairwise(returns_s))
