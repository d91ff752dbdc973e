"""What a sample can say, as plain values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.telemetry.statistics import Proportion, proportion, supports, wilson
from warpfleet.telemetry.units import count_text, interval_text, percent_text, time_text


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 10**7))
    return draw(st.integers(0, n)), n


@given(counts())
def test_the_interval_holds_the_share_and_stays_a_share(count_of_n: tuple[int, int]) -> None:
    count, n = count_of_n
    low, high = wilson(count, n)
    assert 0 <= low <= count / n <= high <= 1
    assert low < high


@given(counts())
def test_failures_mirror_successes(count_of_n: tuple[int, int]) -> None:
    count, n = count_of_n
    low, high = wilson(count, n)
    assert wilson(n - count, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(counts())
def test_more_of_the_same_is_surer(count_of_n: tuple[int, int]) -> None:
    count, n = count_of_n
    (low, high), (low_of_more, high_of_more) = wilson(count, n), wilson(4 * count, 4 * n)
    assert high_of_more - low_of_more < high - low


@given(counts())
def test_its_ends_are_where_the_score_test_just_rejects(count_of_n: tuple[int, int]) -> None:
    """Wilson's definition: the shares p for which |count / n - p| is at most 1.96 standard errors at p."""
    count, n = count_of_n
    for end in wilson(count, n):
        if 0 < end < 1:
            assert abs(count / n - end) == pytest.approx(1.959964 * (end * (1 - end) / n) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("count", "n", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_published_intervals(count: int, n: int, interval: tuple[float, float]) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", Stat. Med. 17 (1998), 857-872."""
    assert wilson(count, n) == pytest.approx(interval, abs=5e-5)


def test_none_of_none_has_no_share() -> None:
    assert proportion(0, 0) == Proportion(0, 0, None, None, None)


@pytest.mark.parametrize(("quantile", "least"), [(0.5, 6), (0.95, 59), (0.99, 299)])
def test_how_many_values_a_quantile_needs(quantile: float, least: int) -> None:
    assert not supports(least - 1, quantile)
    assert supports(least, quantile)


@pytest.mark.parametrize(
    ("value_ms", "text"), [(None, "-"), (0.4, "0 ms"), (999.4, "999 ms"), (999.6, "1.0 s"), (12_345.0, "12.3 s")]
)
def test_times(value_ms: float | None, text: str) -> None:
    assert time_text(value_ms) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "-"), (0.0, "0 %"), (0.001, "<1 %"), (0.125, "12 %"), (0.999, ">99 %"), (1.0, "100 %")],
)
def test_a_share_is_whole_only_where_it_is(share: float | None, text: str) -> None:
    assert percent_text(share) == text


def test_counts_and_intervals() -> None:
    assert (count_text(None), count_text(1234567)) == ("-", "1,234,567")
    assert interval_text(proportion(8, 8)) == "67.6 to 100.0 %"
    assert interval_text(proportion(0, 0)) == "-"
