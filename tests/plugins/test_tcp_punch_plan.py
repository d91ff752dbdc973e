"""Ports and instants of a TCP punch, as plain values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Mapping, NatBehaviour, PortAssignment
from warpfleet.plugins.tcp_punch.plan import (
    CANDIDATES_MAX,
    FIRST_MEETING,
    WINDOW_US,
    clock_ahead_us,
    initiators_step,
    is_near,
    keeps_ports,
    local_ports,
    next_window,
    patience_us,
    predicted,
    preparation_us,
    responders_step,
    window_step,
)

ATTEMPT, OTHER = "a0" * 16, "b1" * 16
SEEN = Endpoint("198.51.100.7", 40_000)
NOON_US = 1_790_000_000_000_000  # a boundary
SEQUENTIAL = NatBehaviour(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=2)
INSTANTS = st.integers(0, 2**51)
SIDES = st.sampled_from(Side)


def test_a_port_is_the_attempts_the_sides_and_the_meetings_own() -> None:
    lists = [
        local_ports(attempt, side, meeting)
        for attempt in (ATTEMPT, OTHER)
        for side in Side
        for meeting in (FIRST_MEETING, 1)
    ]
    assert len({ports[0] for ports in lists}) == len(lists)
    assert local_ports(ATTEMPT, Side.INITIATOR, 0) == lists[0]


@given(st.text("0123456789abcdef", min_size=32, max_size=32), SIDES, st.integers(0, 2**40))
def test_ports_are_dynamic_ones_of_which_some_is_free(attempt: str, side: Side, meeting: int) -> None:
    ports = local_ports(attempt, side, meeting)
    assert all(49_152 <= port <= 65_535 for port in ports)
    assert len(ports) >= 4


@pytest.mark.parametrize(
    ("nat", "keeps"),
    [
        (NatBehaviour(), False),
        (NatBehaviour(translated=False), True),
        (NatBehaviour(mapping=Mapping.EIM), False),
        (NatBehaviour(mapping=Mapping.EIM, port_assignment=PortAssignment.PRESERVING), True),
        (NatBehaviour(mapping=Mapping.EIM, port_assignment=PortAssignment.RANDOM), False),
        (NatBehaviour(mapping=Mapping.APDM, port_assignment=PortAssignment.PRESERVING), False),
    ],
)
def test_which_nats_keep_the_local_port(nat: NatBehaviour, keeps: bool) -> None:
    assert keeps_ports(nat) is keeps


@pytest.mark.parametrize(
    "nat",
    [
        NatBehaviour(),
        NatBehaviour(mapping=Mapping.EIM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=1),
        NatBehaviour(mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM),
    ],
)
def test_where_nothing_can_be_predicted_the_port_that_was_seen_is_told(nat: NatBehaviour) -> None:
    assert predicted(SEEN, nat) == [SEEN]


def test_a_sequence_goes_on_by_its_step() -> None:
    assert [endpoint.port for endpoint in predicted(SEEN, SEQUENTIAL)] == [40_000 + 2 * k for k in range(1, 9)]


@given(st.integers(1, 65_535), st.integers(-64, 64).filter(bool))
def test_predicted_ports_exist_are_few_and_do_not_repeat(port: int, delta: int) -> None:
    nat = NatBehaviour(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=delta)
    ports = [endpoint.port for endpoint in predicted(Endpoint("198.51.100.7", port), nat)]
    assert len(ports) == len(set(ports)) <= CANDIDATES_MAX
    assert all(0 < found <= 65_535 and (found - port) % delta == 0 for found in ports)


@given(
    told=INSTANTS,
    answered_after=st.integers(0, 3_000_000),
    one_way=st.integers(0, 400_000),
    ahead=st.integers(-5_000_000, 5_000_000),
)
def test_both_sides_come_to_one_instant_whatever_their_clocks_are_apart(
    told: int, answered_after: int, one_way: int, ahead: int
) -> None:
    """The initiator tells first; the responder has its own endpoints so much later, and its clock is `ahead`."""
    answered = told + answered_after
    asked_heard, answer_heard = told + one_way, answered + one_way
    took, answer_took = one_way + ahead, one_way - ahead
    initiator = initiators_step(told, answer_heard, answer_took, took)
    responder = responders_step(answered + ahead, asked_heard + ahead, took)
    both_have_heard = max(asked_heard, answer_heard)
    assert initiator.at_us >= both_have_heard
    if took > 0:  # else the clocks may be off by so little that nobody waits for it
        assert responder.at_us - ahead == initiator.at_us or patience_us(took) < one_way
    if ahead == 0:
        assert initiator.at_us == responder.at_us
        assert responder.at_us <= both_have_heard + one_way // 4


@pytest.mark.parametrize(
    ("took_us", "patience"),
    [
        (-5_000_000, 500_000),
        (-50_000, 500_000),
        (-49_999, 0),
        (0, 0),
        (40_000, 50_000),
        (900_000, 1_125_000),
        (9_000_000, 500_000),
    ],
)
def test_clocks_that_cannot_be_right_make_the_responder_wait_as_long_as_most_signals_take(
    took_us: int, patience: int
) -> None:
    assert patience_us(took_us) == patience


@pytest.mark.parametrize(
    ("took_us", "their_took_us", "ahead_us"),
    [
        (40_000, 40_000, 0),
        (600_000, 700_000, 0),
        (100_000, 1_060_000, 480_000),
        (-1_960_000, 2_040_000, 2_000_000),
        (2_040_000, -1_960_000, -2_000_000),
        (-40_000, 50_000, 0),  # what NTP leaves
    ],
)
def test_words_each_way_show_how_far_the_clocks_are_apart(took_us: int, their_took_us: int, ahead_us: int) -> None:
    assert clock_ahead_us(took_us, their_took_us) == ahead_us


@given(now=INSTANTS)
def test_the_next_window_leaves_time_to_prepare_it_and_comes_before_a_relay(now: int) -> None:
    left_us = next_window(now) * WINDOW_US - now
    assert 1_000_000 < left_us <= 2_000_000
    assert left_us > preparation_us(400_000)


@given(
    now=INSTANTS,
    ahead=st.integers(-WINDOW_US, WINDOW_US),
    took=st.integers(0, 2_000_000),
    later=st.integers(0, 10),
)
def test_windows_of_clocks_that_are_off_by_less_than_one_overlap(now: int, ahead: int, took: int, later: int) -> None:
    window = next_window(now + ahead) + later
    prepared_at_us = window * WINDOW_US - preparation_us(took) - ahead  # by our clock
    assert is_near(window, prepared_at_us)


@given(window=st.integers(0, 2**32))
def test_what_is_no_window_of_now_is_not_near(window: int) -> None:
    assert not is_near(window, (window + 4) * WINDOW_US)
    assert not is_near(window + 4, window * WINDOW_US)


def turns(first: int, count: int) -> list[tuple[int | None, int | None]]:
    """The hop limits of the initiator and the responder, window by window."""
    return [
        (window_step(Side.INITIATOR, w, NOON_US).hop_limit, window_step(Side.RESPONDER, w, NOON_US).hop_limit)
        for w in range(first, first + count)
    ]


def test_the_sides_open_their_filters_in_turn_the_home_routers_first() -> None:
    first = next_window(NOON_US)
    crossing = [(None, None)] * 2
    assert turns(first, 6) == [(None, 2), (2, None), (None, 4), (4, None), *crossing]
    assert turns(first + 6, 2) == [(None, 2), (2, None)]


@given(window=st.integers(0, 2**40), started=INSTANTS)
def test_who_passes_a_filter_comes_after_who_opens_it_within_the_window(window: int, started: int) -> None:
    steps = [window_step(side, window, started) for side in Side]
    limited = [step for step in steps if step.hop_limit is not None]
    assert len(limited) <= 1
    for step in steps:
        assert step.at_us // WINDOW_US == window
        assert step.at_us % WINDOW_US == (200_000 if limited and step not in limited else 0)
