"""What lines do to packets on the kernel: loss, jitter, and a broker that is far away from everything else."""

import time
from collections.abc import Iterator
from contextlib import suppress
from math import sqrt
from typing import Any

import pytest

from warpfleet.configs.topology import Topology
from warpfleet.lab import laboratory
from warpfleet.lab.laboratory import Lab

pytestmark = pytest.mark.lab

BROKER, STUN = ("203.0.113.10", 1883), ("203.0.113.20", 3478)
DELAY_MS, JITTER_MS, LOSS, BROKER_DELAY_MS = 10.0, 40.0, 0.2, 100.0
PACKETS, AT_ONCE = 1000, 100  # a socket holds some hundred packets
FIVE_SIGMA = 5 * sqrt(LOSS * (1 - LOSS) / PACKETS)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = [
        {"name": "lossy", "nat": "port_restricted", "loss": LOSS},
        {"name": "jittery", "delay_ms": DELAY_MS, "jitter_ms": JITTER_MS},
        {"name": "plain", "nat": "full_cone", "delay_ms": DELAY_MS},
    ]
    text = {"version": 1, "name": "lines", "broker_delay_ms": BROKER_DELAY_MS, "hosts": hosts}
    with laboratory.laboratory(Topology.model_validate(text)) as made:
        yield made


def test_a_lossy_line_loses_its_share(bench: Any) -> None:
    server, host = bench.udp("core"), bench.udp("lossy")
    server.settimeout(0.2)
    came = 0
    for _ in range(0, PACKETS, AT_ONCE):
        for _ in range(AT_ONCE):
            host.sendto(b"ping", (STUN[0], server.getsockname()[1]))
        with suppress(TimeoutError):
            while server.recv(100):
                came += 1
    assert abs(came / PACKETS - (1 - LOSS)) < FIVE_SIGMA


def test_packets_of_a_jittery_line_are_late_by_chance_and_overtake_one_another(bench: Any) -> None:
    server, host = bench.udp("core"), bench.udp("jittery")
    began_s = time.monotonic()
    sent = [str(number).encode() for number in range(50)]
    for data in sent:
        host.sendto(data, (STUN[0], server.getsockname()[1]))
    came = []
    times_ms = []
    for _ in sent:
        came.append(server.recvfrom(100)[0])
        times_ms.append(1000 * (time.monotonic() - began_s))
    assert sorted(came) == sorted(sent)
    assert came != sent
    assert times_ms[0] >= DELAY_MS
    assert times_ms[-1] >= DELAY_MS + JITTER_MS / 2


def test_signals_are_late_and_nothing_else_is(bench: Any) -> None:
    times_ms = {}
    for server in (BROKER, STUN):
        host = bench.tcp("plain")
        began_s = time.monotonic()
        host.connect(server)
        times_ms[server] = 1000 * (time.monotonic() - began_s)
    assert 2 * DELAY_MS <= times_ms[STUN] < 2 * (DELAY_MS + BROKER_DELAY_MS) <= times_ms[BROKER]
