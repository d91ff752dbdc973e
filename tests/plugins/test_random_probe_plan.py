"""How many mappings and probes a random probe takes, and which ports, with plain values."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.port_range import WHOLE, PortRange
from warpfleet.core.targets import Budget
from warpfleet.plugins.random_probe import RandomProbe
from warpfleet.plugins.random_probe.plan import MAPPINGS_MAX, PACE_MAX_PER_S, PROBES_MAX, chance, ports, stages, times_s

BLOCK = PortRange(40_000, 41_023)
ATTEMPT_S = 15.0

blocks = st.tuples(st.integers(WHOLE.first, WHOLE.last), st.integers(WHOLE.first, WHOLE.last)).map(
    lambda ends: PortRange(min(ends), max(ends))
)
known = st.none() | blocks
round_trips_s = st.none() | st.floats(0.0001, 10)


@pytest.mark.parametrize(
    ("mappings", "probes", "percent"),
    [(256, 256, 63.9), (256, 512, 87.1), (256, 1024, 98.4), (256, 2048, 99.98), (512, 512, 98.3), (1, 64_512, 100)],
)
def test_the_birthday_arithmetic(mappings: int, probes: int, percent: float) -> None:
    assert 100 * chance(mappings, probes, WHOLE.size) == pytest.approx(percent, abs=0.06)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1000, 64_512))
def test_a_chance_is_symmetric_and_at_least_that_of_probes_that_may_repeat(m: int, n: int, size: int) -> None:
    assert chance(m, n, size) == pytest.approx(chance(n, m, size))
    assert 1 - (1 - m / size) ** n - 1e-9 <= chance(m, n, size) <= 1
    assert chance(m, n, size) <= chance(m, n + 1, size) + 1e-9


@given(st.integers(2, 400), st.integers(2, 400), st.integers(1000, 64_512))
def test_of_so_many_packets_most_chances_come_from_equal_halves(m: int, n: int, size: int) -> None:
    half = (m + n) // 2
    assert chance(half, m + n - half, size) >= chance(m, n, size) - 1e-9


@given(st.integers(), known)
def test_no_port_is_probed_twice_and_all_are_such_as_a_nat_draws(seed: int, block: PortRange | None) -> None:
    order = ports(random.Random(seed), block)
    assert len(order) == len(set(order)) == PROBES_MAX
    assert WHOLE.first <= min(order)
    assert max(order) <= WHOLE.last


@given(st.integers(), blocks)
def test_a_block_is_probed_first_until_a_miss_means_that_it_is_none(seed: int, block: PortRange) -> None:
    (_, enough), *rest = stages(block)
    order = ports(random.Random(seed), block)
    first, last = block
    assert all(first <= port <= last for port in order[: min(enough, block.size)])
    assert chance(min(enough, MAPPINGS_MAX), enough, block.size) >= 0.999
    assert block == WHOLE or sum(stage.probes for stage in rest) == PROBES_MAX - enough > 0


def test_a_block_of_a_thousand_ports_takes_a_few_dozen_packets_of_each_side() -> None:
    (block, enough), _ = stages(BLOCK)
    assert block == BLOCK
    assert enough == 81
    assert chance(64, 64, BLOCK.size) > 0.98


def test_ports_are_probed_in_an_order_that_nobody_knows() -> None:
    one, other = (ports(random.Random(seed), BLOCK) for seed in (1, 2))
    assert one != other
    assert one[:80] != sorted(one[:80])


@given(known, round_trips_s)
def test_turns_come_evenly_and_leave_time_to_hear_the_last_answer(block: PortRange | None, rtt_s: float | None) -> None:
    times = list(times_s(block, rtt_s))
    assert len(times) == PROBES_MAX
    first = stages(block)[0].probes
    gaps = [later - earlier for earlier, later in pairwise(times)]
    for stage in (gaps[: first - 1], gaps[first:]):
        assert all(gap == pytest.approx(stage[0]) for gap in stage)
    assert times[-1] < ATTEMPT_S - 2


@given(known, round_trips_s)
def test_all_of_it_fits_into_what_an_attempt_may_send(block: PortRange | None, rtt_s: float | None) -> None:
    """The worst case: the last probe is followed by the handshake."""
    budget = Budget(RandomProbe.allowance)
    sent = list(times_s(block, rtt_s))
    assert all(budget.spend(at_s) for at_s in [*sent, *[sent[-1]] * 20])


@given(st.floats(0.065, 0.2))
def test_half_have_met_before_a_round_trip_is_over_and_nearly_all_within_two(rtt_s: float) -> None:
    after_one, after_two = (sum(at_s < 1.001 * trips * rtt_s for at_s in times_s(None, rtt_s)) for trips in (1, 2))
    assert after_one == pytest.approx(254, abs=2)
    assert chance(212, 212, WHOLE.size) > 0.5
    assert chance(after_two, after_two, WHOLE.size) > 0.98


@given(known, round_trips_s)
def test_the_pace_is_bounded_on_short_paths(block: PortRange | None, rtt_s: float | None) -> None:
    assert all(later - earlier > 0.999 / PACE_MAX_PER_S for earlier, later in pairwise(times_s(block, rtt_s)))
