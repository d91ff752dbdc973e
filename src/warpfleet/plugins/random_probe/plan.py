"""How many mappings and probes it takes until one meets another, which ports are probed, and at what pace. Pure.

The birthday argument: a mapping and a probe meet with a chance of one in `ports`, whichever was first, since a probe
that comes too early opens the prober's own filter for it. So m mappings and p probes make m x p chances, and of m + p
packets most where m = p: both sides send in step, whatever the number of ports. After n packets each, they have missed
with a chance of exp(-n^2 / ports): half have met after 0.83 sqrt(ports) each, 98 % after 2 sqrt(ports). See
D. Anderson, "How NAT traversal works" (Tailscale, 2020), "the benefits of birthdays", where all mappings come first.
"""

from bisect import bisect_left
from collections.abc import Iterator
from math import exp, isqrt, lgamma, sqrt
from random import Random
from typing import NamedTuple

from warpfleet.core.port_range import WHOLE, PortRange
from warpfleet.core.targets import Allowance

# Two sqrt(64,512): 98 % have met by then. The others wait for the probes, since a socket is dearer than a packet.
MAPPINGS_MAX = 512
PROBES_MAX = 1024  # against so many mappings, all but three in ten thousand meet
_CHANCE = 0.999  # that a block is missed in spite of it is not bad luck: the ports are drawn from elsewhere
# Each side sends sqrt(ports) packets a round trip: half have met before the first is over, and 98 % within two. What is
# sent in the round trip after the hit is in vain. A quarter of the pace saves a quarter of the packets, and the first
# byte takes twice as long.
_RTT_MAX_S = 0.2  # at the pace of longer ones, all probes would outlast the attempt
_RTT_ASSUMED_S = 0.1
PACE_MAX_PER_S = 4096  # 8 Mbit/s with all headers, for a quarter of a second at most: as much as a page load
# Two whole attempts at once, and then three average ones a second; nine of ten send no more than is booked.
ALLOWANCE = Allowance(packets_per_s=1024, packets_burst=2 * PROBES_MAX + 128, packets_booked=512)
# So long may an attempt keep its room for sockets: two late signals, the probes, and some round trips.
HELD_S = 30.0


def chance(mappings: int, probes: int, ports: int) -> float:
    """How likely it is that one of so many probes, each to another port, meets one of so many mappings, of `ports`."""
    if mappings + probes > ports:
        return 1.0
    missed = lgamma(ports - mappings + 1) - lgamma(ports - mappings - probes + 1)
    return 1 - exp(missed - lgamma(ports + 1) + lgamma(ports - probes + 1))


class Stage(NamedTuple):
    """So many probes of these ports, one mapping beside each."""

    ports: PortRange
    probes: int


def stages(block: PortRange | None) -> list[Stage]:
    """The block that the peer's mappings are known to be in, until a miss means that they are not; then all ports."""
    if block is None or block == WHOLE:
        return [Stage(WHOLE, PROBES_MAX)]
    enough = bisect_left(range(block.size), _CHANCE, key=lambda each: chance(min(each, MAPPINGS_MAX), each, block.size))
    return [Stage(block, enough), Stage(WHOLE, PROBES_MAX - enough)]


def ports(rng: Random, block: PortRange | None) -> list[int]:
    """The ports to probe, in this order, none twice."""
    order: list[int] = []
    for (first, last), probes in stages(block):
        drawn = rng.sample(range(first, last + 1), min(last + 1 - first, len(order) + probes))
        tried = set(order)
        order += [port for port in drawn if port not in tried][:probes]
    return order


def a_round_trip(block: PortRange | None) -> int:
    """How many packets each side sends in a round trip that is no longer than the pace is for."""
    return isqrt(stages(block)[0].ports.size)


def times_s(block: PortRange | None, rtt_s: float | None) -> Iterator[float]:
    """When each probe is sent, and each mapping opened, in seconds since the first: evenly, and the slower the fewer
    ports there are. `rtt_s` is the path's round trip, None where it is not known."""
    at_s = 0.0
    for stage in stages(block):
        round_trip_s = min(rtt_s or _RTT_ASSUMED_S, _RTT_MAX_S)
        interval_s = max(round_trip_s / sqrt(stage.ports.size), 1 / PACE_MAX_PER_S)
        for _ in range(stage.probes):
            yield at_s
            at_s += interval_s
