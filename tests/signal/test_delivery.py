"""Reliable delivery on virtual time, over a network that loses, repeats and reorders."""

import random
from heapq import heappop, heappush
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.retry import RoundTrip
from warpfleet.signal.delivery import Delivery


def run(rng: random.Random, loss: float, deadline_s: float = 30.0) -> tuple[float | None, int, list[int], float]:
    """Deliver one message; (round trip, deliveries to the handler, transmissions that arrived, time taken)."""
    delivery = Delivery(RoundTrip(), rng.random)
    order, events, arrived, seen = count(), list[tuple[float, int, str, int]](), list[int](), 0
    now = 0.0
    while delivery.rtt_s is None and now < deadline_s:
        if delivery.due_at <= now:
            number = delivery.transmit(now)
            for _ in range(rng.choice((1, 1, 2))):
                if rng.random() >= loss:
                    heappush(events, (now + rng.uniform(0.02, 0.6), next(order), "message", number))
        now = min(delivery.due_at, events[0][0] if events else delivery.due_at)
        while events and events[0][0] <= now:
            _, _, what, number = heappop(events)
            if what == "ack":
                delivery.acknowledge(number, now)
            else:
                arrived.append(number)
                seen += len(arrived) == 1
                if rng.random() >= loss:
                    heappush(events, (now + rng.uniform(0.02, 0.6), next(order), "ack", number))
    return delivery.rtt_s, seen, arrived, now


@given(st.randoms(use_true_random=False))
def test_a_lossy_network_delays_a_message_and_does_not_lose_it(rng: random.Random) -> None:
    rtt_s, seen, _, _ = run(random.Random(rng.randrange(2**32)), loss=0.4)
    assert rtt_s is not None
    assert 0.04 <= rtt_s <= 1.2, "a round trip is of one transmission, however many were made"
    assert seen == 1


def test_without_an_answer_transmissions_back_off_and_stay_within_a_second() -> None:
    delivery = Delivery(RoundTrip(), lambda: 0.0)
    times = []
    for _ in range(6):
        times.append(delivery.due_at)
        delivery.transmit(delivery.due_at)
    assert times == pytest.approx([0.0, 0.3, 0.9, 1.9, 2.9, 3.9])
    assert delivery.rtt_s is None


def test_the_round_trip_is_of_the_transmission_that_was_acknowledged() -> None:
    round_trip = RoundTrip()
    delivery = Delivery(round_trip, lambda: 0.0)
    delivery.transmit(10.0)
    delivery.transmit(10.3)
    assert delivery.acknowledge(2, 10.35)
    assert delivery.rtt_s == pytest.approx(0.05)
    assert round_trip.smoothed_s == pytest.approx(0.05)


@pytest.mark.parametrize("transmission", [-1, 0, 2])
def test_an_acknowledgement_of_what_was_never_sent_settles_nothing(transmission: int) -> None:
    delivery = Delivery(RoundTrip(), lambda: 0.0)
    delivery.transmit(0.0)
    assert not delivery.acknowledge(transmission, 0.1)
    assert delivery.rtt_s is None


def test_a_second_acknowledgement_changes_nothing() -> None:
    delivery = Delivery(RoundTrip(), lambda: 0.0)
    delivery.transmit(0.0)
    assert delivery.acknowledge(1, 0.1)
    assert not delivery.acknowledge(1, 5.0)
    assert delivery.rtt_s == pytest.approx(0.1)
