"""Retry schedules: their bounds, and what chance may do to them."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.retry import RoundTrip, retry_delays


def test_delays_double_up_to_the_cap() -> None:
    assert list(islice(retry_delays(0.2, 1.0, lambda: 0.0), 5)) == [0.2, 0.4, 0.8, 1.0, 1.0]


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens_and_by_at_most_a_quarter(first_s: float, cap_s: float, chance: float) -> None:
    plain = islice(retry_delays(first_s, cap_s, lambda: 0.0), 20)
    jittered = islice(retry_delays(first_s, cap_s, lambda: chance), 20)
    assert all(0.75 * full <= delay <= full <= cap_s for full, delay in zip(plain, jittered, strict=True))


def test_the_retry_timer_follows_the_round_trip_within_bounds() -> None:
    round_trip = RoundTrip()
    assert round_trip.retry_s == RoundTrip.UNKNOWN_RETRY_S
    round_trip.sample(0.001)
    assert round_trip.retry_s == RoundTrip.MIN_RETRY_S
    round_trip = RoundTrip()
    round_trip.sample(0.2)
    assert round_trip.retry_s == pytest.approx(0.4)
    round_trip.sample(1.0)
    assert round_trip.smoothed_s == pytest.approx(0.3)
    for _ in range(20):
        round_trip.sample(0.6)
    assert round_trip.retry_s == RoundTrip.MAX_RETRY_S
    for _ in range(100):
        round_trip.sample(5.0)
    assert round_trip.retry_s == pytest.approx(7.5, rel=1e-3), "never within a round trip"
