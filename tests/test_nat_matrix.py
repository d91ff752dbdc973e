"""The judges of the NAT x NAT table: what counts as a miss, and what as chance."""

from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat_matrix import Tally, Try, late, missed
from nat_table import CHANCE_OF_INJUSTICE, Row, Way, bad_day_bound_ms, bound_ms, too_few
from warpfleet.core.combo import ConnectionOutcome

shares = st.sampled_from([0.5, 0.95, 0.98, 1.0])
counts = st.integers(1, 60)


@pytest.mark.parametrize(
    ("successes", "tries", "share", "short"),
    [
        (20, 20, 1.0, False),
        (19, 20, 1.0, True),
        (17, 20, 0.98, False),  # 0.7 %
        (16, 20, 0.98, True),  # 0.06 %
        (15, 20, 0.95, False),  # 0.26 %
        (14, 20, 0.95, True),  # 0.03 %
        (7, 20, 0.98, True),
        (1, 2, 0.98, False),
        (0, 2, 0.98, True),  # 0.04 %
        (0, 1, 0.95, False),
    ],
)
def test_a_row_is_short_where_chance_does_not_excuse_it(successes: int, tries: int, share: float, short: bool) -> None:
    assert too_few(successes, tries, share) is short


@given(tries=counts, share=shares)
def test_no_more_than_one_true_row_in_a_thousand_is_called_short(tries: int, share: float) -> None:
    short = [k for k in range(tries + 1) if too_few(k, tries, share)]
    assert sum(comb(tries, k) * share**k * (1 - share) ** (tries - k) for k in short) < CHANCE_OF_INJUSTICE
    assert short == list(range(len(short)))  # the fewer, the shorter
    assert tries not in short


def tally(initiator: str, way: Way, share: float, *, came: int, failed: int, punches: int = 0) -> Tally:
    outcomes = [way.outcome] * came + [ConnectionOutcome.FAILED] * failed
    tries = (Try(f"{initiator}-{n}", each, way.plugins[0], 80.0, punches, None) for n, each in enumerate(outcomes))
    return Tally(Row(initiator, "responder", way, share), Path(), tuple(tries))


def complaints(*tallies: Tally) -> list[tuple[str, str]]:
    return [(one.row.initiator, complaint) for one, complaint in missed(tallies)]


def test_one_bad_row_does_not_hide_among_good_ones() -> None:
    good = [tally(f"good-{n}", Way.GUESS, 0.98, came=20, failed=0) for n in range(40)]
    assert complaints(*good, tally("bad", Way.GUESS, 0.98, came=7, failed=13)) == [
        ("bad", "7 of 20, 98% are asked for")
    ]


def test_rows_that_chance_would_excuse_one_by_one_are_short_together() -> None:
    rows = [tally(f"row-{n}", Way.GUESS, 0.98, came=19, failed=1) for n in range(2)]
    fine = tally("fine", Way.GUESS, 0.98, came=20, failed=0)
    pooled = "58 of 60 by GUESS in all, 98% are asked for"
    assert complaints(*rows, fine) == [("row-0", pooled), ("row-1", pooled)]


def test_rows_of_other_shares_and_ways_do_not_make_up_for_one_another() -> None:
    others = [tally("other", way, share, came=99, failed=0) for way, share in ((Way.GUESS, 0.95), (Way.PUNCH, 0.98))]
    assert complaints(*others, tally("row", Way.GUESS, 0.98, came=19, failed=1)) == [
        ("row", "19 of 20 by GUESS in all, 98% are asked for")
    ]


def test_what_is_asked_every_time_is_missed_once_by_one_failure() -> None:
    fine, short = (tally(name, Way.DIAL, 1.0, came=20 - n, failed=n) for n, name in enumerate(("fine", "short")))
    assert complaints(fine, short) == [("short", "19 of 20, 100% are asked for")]


def test_a_relay_that_was_punched_for_is_a_miss_although_it_came() -> None:
    assert complaints(tally("quiet", Way.RELAY, 1.0, came=2, failed=0)) == []
    found = complaints(tally("loud", Way.RELAY, 1.0, came=2, failed=0, punches=1))
    assert found == [("loud", "punched or sprayed although nothing can come of it")]


def test_a_row_is_late_where_its_median_is_beyond_the_bound_of_the_day() -> None:
    def took(*times_ms: float) -> Tally:
        direct = ConnectionOutcome.DIRECT
        tries = (Try(f"{ms}", direct, "udp_punch", ms, 1, None) for ms in times_ms)
        return Tally(Row("one", "two", Way.PUNCH), Path(), tuple(tries))

    good_ms, bad_ms = (bound(Way.PUNCH, "udp_punch") for bound in (bound_ms, bad_day_bound_ms))
    assert not list(late([took(good_ms, good_ms, 9_000.0)], bound_ms))
    assert len(list(late([took(80.0, good_ms + 1, 9_000.0)], bound_ms))) == 1
    assert not list(late([took(80.0, good_ms + 1, 9_000.0)], bad_day_bound_ms))
    assert len(list(late([took(bad_ms + 1)], bad_day_bound_ms))) == 1


def test_a_row_that_never_came_about_is_not_late_besides() -> None:
    never = Try("0", ConnectionOutcome.FAILED, None, None, 1, None)
    row = Tally(Row("one", "two", Way.PUNCH), Path(), (never, never))
    assert not list(late([row], bound_ms))
    assert complaints(row) == [("one", "0 of 2, 100% are asked for")]
