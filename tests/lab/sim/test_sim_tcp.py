"""One TCP connection between two ends in memory: segments are carried by hand, and time is an argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.lab.sim.packet import Flags, Segment
from warpfleet.lab.sim.tcp import Connection, Failure, State

RTT_S = 0.08


def sent(end: Connection) -> list[Segment]:
    outgoing, end.outgoing = end.outgoing, []
    return outgoing


def exchange(a: Connection, b: Connection, now_s: float = RTT_S) -> None:
    """Carry segments until neither end has any."""
    while a.outgoing or b.outgoing:
        crossing = sent(a), sent(b)
        for segment in crossing[0]:
            b.receive(segment, now_s)
        for segment in crossing[1]:
            a.receive(segment, now_s)


def established() -> tuple[Connection, Connection]:
    a, b = Connection(100), Connection(900)
    a.connect(0.0)
    b.accept(sent(a)[0], RTT_S / 2)
    exchange(a, b)
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)
    return a, b


def test_two_syns_that_cross_make_one_connection() -> None:
    a, b = Connection(100), Connection(900)
    a.connect(0.0)
    b.connect(0.0)
    [syn_a], [syn_b] = sent(a), sent(b)
    a.receive(syn_b, RTT_S)
    b.receive(syn_a, RTT_S)
    assert (a.state, b.state) == (State.SYN_RECEIVED, State.SYN_RECEIVED)
    exchange(a, b)
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)
    a.write(b"from a", 1.0)
    b.write(b"from b", 1.0)
    exchange(a, b)
    assert (bytes(a.received), bytes(b.received)) == (b"from b", b"from a")


def test_a_syn_that_a_filter_drops_is_opened_by_the_one_that_comes_through() -> None:
    a, b = Connection(100), Connection(900)
    a.connect(0.0)
    sent(a)  # dropped
    b.connect(0.5)
    exchange(a, b)
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_a_syn_goes_out_again_after_1_3_and_7_seconds() -> None:
    a = Connection(100)
    a.connect(0.0)
    times_s = []
    while a.due_s is not None:
        now_s = a.due_s
        a.tick(now_s)
        if a.state is State.SYN_SENT:
            times_s.append(now_s)
    assert times_s == [1.0, 3.0, 7.0, 15.0, 31.0, 63.0]
    assert a.failure is Failure.NO_ANSWER


def test_a_reset_refuses_only_the_syn_that_it_answers() -> None:
    a = Connection(100)
    a.connect(0.0)
    a.receive(Segment(Flags.RST | Flags.ACK, 0, 4711), 0.1)
    assert a.state is State.SYN_SENT
    a.receive(Segment(Flags.RST | Flags.ACK, 0, 101), 0.1)
    assert (a.state, a.failure) == (State.CLOSED, Failure.REFUSED)


def test_a_reset_of_the_expected_number_ends_a_connection_and_a_guess_does_not() -> None:
    a, _ = established()
    a.receive(Segment(Flags.RST, 4711), 1.0)
    assert a.state is State.ESTABLISHED
    a.receive(Segment(Flags.RST, 901), 1.0)
    assert a.failure is Failure.RESET


@given(st.data(), st.binary(min_size=1, max_size=12_000))
def test_bytes_arrive_once_and_in_order_whatever_is_lost_repeated_or_overtaken(
    data: st.DataObject, text: bytes
) -> None:
    a, b = established()
    a.write(text, 1.0)
    first = sent(a)
    arriving = data.draw(st.lists(st.sampled_from(first), max_size=2 * len(first)))
    for segment in arriving:
        b.receive(segment, 1.0)
    while a.due_s is not None:
        exchange(a, b, a.due_s)
        if a.due_s is not None:
            a.tick(a.due_s)
    assert bytes(b.received) == text


def test_closing_says_so_after_the_last_byte() -> None:
    a, b = established()
    a.write(b"bye", 1.0)
    a.close(1.0)
    exchange(a, b)
    assert (bytes(b.received), b.ended, a.state) == (b"bye", True, State.CLOSED)


def test_an_end_that_has_no_more_to_send_still_receives() -> None:
    a, b = established()
    a.write_eof(1.0)
    exchange(a, b)
    b.write(b"an answer", 1.0)
    exchange(a, b)
    assert (b.ended, bytes(a.received), a.state) == (True, b"an answer", State.ESTABLISHED)
    a.close(1.0)
    assert a.state is State.CLOSED


def test_an_abort_is_no_end() -> None:
    a, b = established()
    a.write(b"half", 1.0)
    exchange(a, b)
    a.abort()
    exchange(a, b)
    assert (bytes(b.received), b.ended, b.failure) == (b"half", False, Failure.RESET)


def test_bytes_for_an_end_that_has_closed_are_answered_by_a_reset() -> None:
    a, b = established()
    a.close(1.0)
    b.write(b"anybody?", 1.0)
    exchange(a, b)
    assert b.failure is Failure.RESET


def test_a_peer_that_has_vanished_ends_the_connection_in_the_end() -> None:
    a, _ = established()
    a.write(b"anybody?", 1.0)
    while a.due_s is not None:
        a.tick(a.due_s)
    assert (a.state, a.failure) == (State.CLOSED, Failure.NO_ANSWER)


@pytest.mark.parametrize("flags", [Flags.ACK, Flags.SYN | Flags.ACK])
def test_an_answer_to_a_syn_of_long_ago_is_reset(flags: Flags) -> None:
    a = Connection(100)
    a.connect(0.0)
    sent(a)
    a.receive(Segment(flags, 900, 55), 0.1)
    assert (a.state, sent(a)) == (State.SYN_SENT, [Segment(Flags.RST, 55)])
