"""How many mappings and probes it takes until one meets another, and which ports are probed. Pure.

The birthday argument: of `ports` ports, some are mapped; each probe goes to another port, and misses as long as it hits
none of them. So after p probes of m mappings the chance is 1 - (1 - m/ports)^p, or a little more, since no port is
tried twice. See D. Anderson, "How NAT traversal works" (Tailscale, 2020), "the benefits of birthdays".
"""

from collections.abc import Iterator
from itertools import count
from math import prod
from random import Random

# RFC 4787 section 4.2.1: random allocators draw from all but the well-known ports.
FIRST_PORT = 1024
PORTS = 65_536 - FIRST_PORT
# As many mappings as probes are expected, sqrt(64,512), take the fewest packets together.
MAPPINGS = 256
# A round meets a mapping two times in three, and is no more of a burst than a page load.
ROUND_PROBES = 256
ROUND_S = 0.25  # three round trips of most paths: after a hit, little is sent in vain
_CHANCE = 0.999  # beyond that, it is not bad luck: the peer's ports are drawn from elsewhere


def chance(mappings: int, probes: int, ports: int = PORTS) -> float:
    """How likely it is that one of so many probes, each to another port, hits one of so many mappings, of `ports`."""
    return 1 - prod(max(0, ports - mappings - tried) / (ports - tried) for tried in range(probes))


ROUNDS = next(number for number in count(1) if chance(MAPPINGS, number * ROUND_PROBES) >= _CHANCE)
"""So many make a hit as good as certain."""


def rounds(rng: Random) -> Iterator[list[int]]:
    """The ports to probe, round by round, no port twice."""
    ports = rng.sample(range(FIRST_PORT, FIRST_PORT + PORTS), ROUNDS * ROUND_PROBES)
    for start in range(0, len(ports), ROUND_PROBES):
        yield ports[start : start + ROUND_PROBES]
