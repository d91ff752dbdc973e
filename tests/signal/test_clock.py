"""Clock offset: whom to believe, and how far."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import ntplib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.errors import InputError
from warpfleet.signal.clock import ClockEstimate, ClockSample, best_offset_s, estimate, measure, sample_of


def test_the_intersection_of_those_that_agree_is_the_estimate() -> None:
    samples = [ClockSample("a", 0.0, 2.0), ClockSample("b", 1.5, 1.0), ClockSample("liar", 100.0, 0.1)]
    assert estimate(samples) == ClockEstimate(1.25, 0.75, ("a", "b"))


def test_of_several_nodes_estimates_the_least_uncertain_is_the_machines() -> None:
    clocks = [None, ClockEstimate(1.0, 0.5, ("a",)), ClockEstimate(2.0, 0.1, ("b",))]
    assert best_offset_s(clocks) == 2.0
    assert best_offset_s([None]) == 0.0


def test_one_server_is_believed_and_two_that_differ_are_not() -> None:
    assert estimate([ClockSample("a", 0.5, 0.25)]) == ClockEstimate(0.5, 0.25, ("a",))
    assert estimate([ClockSample("a", 0.5, 0.1), ClockSample("b", 5.0, 0.1)]) is None
    assert estimate([]) is None


@given(
    st.floats(-1000, 1000),
    st.lists(st.tuples(st.floats(-0.99, 0.99), st.floats(0.001, 5)), min_size=3, max_size=9),
    st.floats(2000, 3000),
)
def test_the_truth_lies_within_the_bound_while_a_majority_is_right(
    truth: float, honest: list[tuple[float, float]], lie: float
) -> None:
    samples = [ClockSample(f"honest{n}", truth + error * part, error) for n, (part, error) in enumerate(honest)]
    liars = [ClockSample(f"liar{n}", lie, 0.001) for n in range((len(honest) - 1) // 2)]
    found = estimate(liars + samples)
    assert found is not None
    assert abs(found.offset_s - truth) <= found.error_s + 1e-9
    assert found.error_s <= min(error for _, error in honest) + 1e-9


def answer(stratum: int = 2, leap: int = 0) -> ntplib.NTPStats:
    stats = ntplib.NTPStats()
    stats.stratum, stats.leap, stats.root_delay, stats.root_dispersion = stratum, leap, 0.02, 0.005
    stats.orig_timestamp, stats.recv_timestamp, stats.tx_timestamp, stats.dest_timestamp = 100.0, 103.0, 103.0, 100.1
    return stats


def test_the_error_bound_is_the_root_distance() -> None:
    sample = sample_of("a", answer())
    assert sample is not None
    assert sample.offset_s == pytest.approx(2.95)
    assert sample.error_s == pytest.approx(0.1 / 2 + 0.02 / 2 + 0.005, abs=2e-4)


@pytest.mark.parametrize(("stratum", "leap"), [(0, 0), (16, 0), (2, 3)])
def test_an_unsynchronised_server_says_nothing(stratum: int, leap: int) -> None:
    assert sample_of("a", answer(stratum, leap)) is None


@contextmanager
def ntp_server(ahead_s: float) -> Iterator[str]:
    """A server on loopback whose clock is ahead of ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve_time, args=(sock, ahead_s))
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"stop", sock.getsockname())
            thread.join()


def serve_time(sock: socket.socket, ahead_s: float) -> None:
    while True:
        data, client = sock.recvfrom(256)
        if data == b"stop":
            return
        request = ntplib.NTPPacket()
        request.from_data(data)
        now = ntplib.system_to_ntp_time(time.time() + ahead_s)
        reply = ntplib.NTPPacket(version=4, mode=4, tx_timestamp=now)
        reply.stratum, reply.orig_timestamp, reply.recv_timestamp = 1, request.tx_timestamp, now
        sock.sendto(reply.to_data(), client)


async def test_servers_are_asked_from_the_vantage_and_silent_ones_left_out() -> None:
    asked: list[threading.Thread] = []

    def in_vantage(query: Callable[[], ntplib.NTPStats]) -> ntplib.NTPStats:
        asked.append(threading.current_thread())
        return query()

    with ExitStack() as stack:
        good = [stack.enter_context(ntp_server(7.0)) for _ in range(2)]
        silent = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        silent.bind(("127.0.0.1", 0))
        found = await measure([*good, f"127.0.0.1:{silent.getsockname()[1]}"], 0.6, in_vantage)
    assert found is not None
    assert abs(found.offset_s - 7.0) <= found.error_s + 0.001
    assert found.error_s < 0.1
    assert set(found.servers) == set(good)
    assert threading.main_thread() not in asked


async def test_no_answer_is_no_estimate() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        started = time.monotonic()
        assert await measure([f"127.0.0.1:{silent.getsockname()[1]}"], 0.2) is None
        assert time.monotonic() - started < 1
    assert await measure([], 1) is None


async def test_a_server_that_cannot_be_read_is_named() -> None:
    with pytest.raises(InputError, match="host:port"):
        await measure(["host:port"], 1)
