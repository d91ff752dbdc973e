"""What a UDP punch plans: its candidates, and the ports that a sequential NAT gives next or gave before."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meeting import EXT

from fake_nat import sequence
from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX, RUN_SOCKETS, ahead, behind, candidates


@pytest.mark.parametrize(
    ("route", "found"),
    [
        (EXT, ["198.51.100.7:61000"]),
        (RouteType.NIC, ["192.168.1.2:4000", "203.0.113.5:4000"]),
    ],
)
def test_the_candidates_of_each_route(route: RouteType, found: list[str]) -> None:
    ips = ("127.0.0.1", "192.168.1.2", "169.254.1.1", "203.0.113.5", "2001:db8::1")
    interfaces = [Interface("e", ip, 24) for ip in ips]
    own = candidates(route, 4000, interfaces, Endpoint("198.51.100.7", 61000), 4)
    assert [str(endpoint) for endpoint in own] == found
    assert candidates(EXT, 4000, interfaces, None, 4) == []


LATEST = Endpoint("198.51.100.7", 61_000)
PORT, STEP = st.integers(1024, 65_535), st.integers(-1000, 1000).filter(bool)


@given(PORT, STEP, st.integers(0, RUN_SOCKETS * CANDIDATES_MAX - 1))
def test_a_run_covers_exactly_one_of_the_ports_ahead(port: int, delta: int, others: int) -> None:
    taken = sequence(port, delta)
    run = list(islice(taken, 1 + others, 1 + others + RUN_SOCKETS))
    found = ahead(LATEST._replace(port=port), delta)
    assert len(found) == CANDIDATES_MAX
    assert sum(candidate.port in run for candidate in found) >= 1
    if len(set(islice(sequence(port, delta), RUN_SOCKETS * (CANDIDATES_MAX + 1)))) == RUN_SOCKETS * (
        CANDIDATES_MAX + 1
    ):
        assert sum(candidate.port in run for candidate in found) == 1


@given(PORT, STEP, st.integers(0, CANDIDATES_MAX - 1))
def test_what_was_opened_before_is_among_the_ports_behind(port: int, delta: int, others: int) -> None:
    ports = list(islice(sequence(port, delta), others + 2))
    found = behind(LATEST._replace(port=ports[-1]), delta)
    assert found[others] == LATEST._replace(port=port)
    assert len(found) == CANDIDATES_MAX


def test_ports_ahead_and_behind_in_plain_numbers() -> None:
    assert [e.port for e in ahead(LATEST, 1)] == [61_016, 61_032, 61_048, 61_064, 61_080, 61_096, 61_112, 61_128]
    assert [e.port for e in behind(LATEST, -2)] == [61_002, 61_004, 61_006, 61_008, 61_010, 61_012, 61_014, 61_016]
    assert {e.ip for e in ahead(LATEST, 1) + behind(LATEST, 1)} == {LATEST.ip}
