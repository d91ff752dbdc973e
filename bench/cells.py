"""What is measured: tries of contenders at pairs of hosts, and their order. Pure values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BARE_TCP, BARE_UDP = "bare tcp", "bare udp"
STAGGERED, STRICT, RELAY_FIRST, NODE = "staggered", "strict", "relay_first", "node"
AIOICE, WARPGATE = "aioice", "warpgate"
CONTENDERS = (BARE_TCP, BARE_UDP, STAGGERED, STRICT, RELAY_FIRST, NODE, AIOICE, WARPGATE)

# One pair of each kind that theory tells apart: EIM with EIM, easy and hard; a symmetric NAT with each filtering and
# each port assignment; a public host, asked and asking; a network that blocks UDP, with a direct path and without.
PAIRS = (
    ("full_cone", "public"),
    ("full_cone", "addr_restricted"),
    ("public", "full_cone"),
    ("port_restricted", "eim_random_ports"),
    ("full_cone", "symmetric_random"),
    ("port_restricted", "symmetric_sequential"),
    ("port_restricted", "symmetric_random"),
    ("symmetric_sequential", "symmetric_random"),
    ("udp_blocked", "public"),
    ("udp_blocked", "port_restricted"),
)
SLOW_MS = 10_000.0  # a contender that takes longer for a pair is not asked again: the run is to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one try to connect ended. Without `first_byte_ms` there was no echo, and `error` says why."""

    first_byte_ms: float | None = None
    how: str = ""
    relayed: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try of one contender at one pair, and what it cost on both hosts together.

    `took_ms` is how long it took with its end; `packets` are those that both hosts sent, `sockets` those opened by
    both; `cpu_ms` is that of every process of the contender.
    """

    contender: str
    initiator: str
    responder: str
    ended: Ended
    took_ms: float
    packets: int
    sockets: int
    cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What a contender costs while it does nothing, and when many connections are under way at once.

    `crowd_cpu_ms` is that of one connection of each pair that was asked, all processes together, at `CROWD` in flight;
    None where not all came about, or for a contender that was not asked.
    """

    contender: str
    nodes: int
    memory_mib: float  # a node
    idle_cpu_ms_s: float  # all its processes, a second
    crowd_cpu_ms: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeSpeed:
    """What a pipe over one transport gives between two hosts without delay. None where there was none."""

    contender: str
    transport: str
    round_trip_ms: float | None = None
    throughput_mb_s: float | None = None
    error: str = ""


def order(
    pairs: Sequence[tuple[str, str]], contenders: Sequence[str], repeats: int
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every (contender, pair), repeat after repeat, and of each pair all contenders one after another: what changes
    on the machine meanwhile changes for all of them."""
    for _ in range(repeats):
        for pair in pairs:
            for contender in contenders:
                yield contender, pair


def too_slow(tries: Sequence[Try], contender: str, pair: tuple[str, str]) -> bool:
    """Whether a contender has taken so long for a pair that it is not asked again."""
    return any(t.took_ms > SLOW_MS for t in tries if t.contender == contender and (t.initiator, t.responder) == pair)
