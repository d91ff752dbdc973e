"""Which addresses an attempt may send to, and how much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.combo import RouteType
from warpfleet.core.targets import DIALLING_ALLOWANCE, Allowance, Budget, permitted

NIC, EXT, LOOPBACK = RouteType.NIC, RouteType.EXT, RouteType.LOOPBACK


@pytest.mark.parametrize(
    ("ip", "routes"),
    [
        ("203.0.113.7", {EXT, NIC}),
        ("2001:db8::7", {EXT, NIC}),
        ("8.8.8.8", {EXT, NIC}),
        ("10.1.2.3", {NIC}),
        ("172.16.0.1", {NIC}),
        ("172.32.0.1", {EXT, NIC}),
        ("192.168.0.1", {NIC}),
        ("100.64.0.1", {NIC}),  # RFC 6598, behind carrier-grade NAT
        ("100.128.0.1", {EXT, NIC}),
        ("fd12::1", {NIC}),
        ("127.0.0.1", {LOOPBACK}),
        ("127.8.9.10", {LOOPBACK}),
        ("::1", {LOOPBACK}),
        ("169.254.169.254", set()),  # link-local: the metadata service of clouds
        ("fe80::1", set()),
        ("224.0.0.1", set()),
        ("ff02::1", set()),
        ("0.0.0.0", set()),
        ("0.1.2.3", set()),
        ("::", set()),
        ("240.0.0.1", set()),
        ("255.255.255.255", set()),
        ("::ffff:127.0.0.1", set()),
        ("::ffff:10.0.0.1", set()),
        ("::ffff:203.0.113.7", set()),
    ],
)
def test_the_route_type_decides_which_addresses_are_targets(ip: str, routes: set[RouteType]) -> None:
    assert {route for route in RouteType if permitted(ip, route)} == routes


def test_a_burst_then_the_rate() -> None:
    budget = Budget(Allowance(packets_per_s=10, packets_burst=3))
    assert [budget.spend(5.0) for _ in range(4)] == [True, True, True, False]
    assert [budget.spend(5.05), budget.spend(5.125), budget.spend(5.125)] == [False, True, False]
    assert [budget.spend(100.0) for _ in range(4)] == [True, True, True, False]


@given(st.floats(0.5, 500), st.integers(1, 50), st.lists(st.floats(0, 2) | st.just(0.0), min_size=1, max_size=200))
def test_no_window_of_time_sees_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    budget, now_s = Budget(Allowance(rate, burst)), 0.0
    spent: list[float] = []
    for gap in gaps:
        now_s += gap
        if budget.spend(now_s):
            spent.append(now_s)
    for first, start in enumerate(spent):
        for last in range(first, len(spent)):
            assert last - first + 1 <= burst + (spent[last] - start) * rate + 1e-6


@given(st.floats(0.5, 500), st.integers(8, 50), st.integers(1, 8), st.integers(1, 100))
def test_who_waits_for_what_is_to_be_booked_gets_it_and_no_more(
    rate: float, burst: int, packets: int, times: int
) -> None:
    budget, now_s = Budget(Allowance(rate, burst, packets)), 0.0
    for number in range(1, times + 1):
        while wait_s := budget.book(now_s):
            now_s += wait_s
        assert number * packets <= burst + now_s * rate + 1e-3


def test_what_was_booked_in_vain_is_there_for_others() -> None:
    budget = Budget(Allowance(packets_per_s=10, packets_burst=8, packets_booked=4))
    assert [budget.book(0.0) for _ in range(3)] == [0, 0, 0.4]
    assert budget.spend(0.0) is False
    budget.give_back(3)
    assert [budget.spend(0.0) for _ in range(4)] == [True, True, True, False]
    budget.give_back(100)
    assert sum(budget.spend(0.0) for _ in range(100)) == 8


def test_a_crowd_of_connects_waits_for_nothing() -> None:
    """32 at once, and then forty a second, each of which dials two ports."""
    budget = Budget(DIALLING_ALLOWANCE)
    assert all(budget.book(0.0) == 0 for _ in range(32))
    assert all(budget.book(number / 40) == 0 for number in range(1000))


def test_no_more_is_booked_than_ever_fits() -> None:
    assert Budget(Allowance(packets_per_s=10, packets_burst=3)).book(0.0) == 0


@given(st.floats(1, 500), st.integers(1, 50), st.integers(1, 100))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, burst: int, packets: int) -> None:
    budget = Budget(Allowance(rate, burst))
    assert all(budget.spend(number * 1.001 / rate) for number in range(packets))
