"""NAT x NAT, as a specification: what RFC 4787 leaves of a path between two hosts of the topology `matrix`, who is to
find it, how often, and how soon. It reads nothing of the planner, which it is there to judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import comb

from warpfleet.configs.topology import PRESETS, NatSpec, Topology, find_topology
from warpfleet.core.combo import ConnectionOutcome, RouteType
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.peer import AddressFamily
from warpfleet.core.plan import Pin

OPEN = Pin()
MATRIX = find_topology("matrix")
PEER = "_peer"

# Each host is 20 ms from the internet, one way; a signal and a path both cross two hosts' lines, there and back.
SIGNAL_RTT_MS = PATH_RTT_MS = 80.0
# Where theory leaves no direct path, that is known and a relay is there within a second; what it may come later for
# that one was sought first, in vain.
RELAY_MS, IN_VAIN_MS = 1_000.0, 3_000.0

# What a bad day costs (`adverse`). Jitter makes a round trip, which is four lines, 30 ms longer on average, and nothing
# waits for a dozen of them one after another.
SIGNAL_LATE_MS = 500.0
JITTER_MS = 12 * 30.0
# Of a dozen packets that a connection waits for, three or more are lost to one in fifty: a bound has room for two. TCP
# sends again after 1 s (RFC 6298 section 2.1), and what follows a SYN that was lost too (section 3: it has shown no
# round trip); punches send at least every 0.5 s, as STUN does at first (RFC 8489 section 6.2.1).
LOSSES = 2
LOST_OVER_TCP_MS, LOST_OVER_UDP_MS = 1_000.0, 500.0
# 98 % of guesses have met after 2 sqrt(ports) packets of each side. Half of them is sent in a round trip, which is
# taken for 0.1 s where the path is new.
GUESSES_MS = 2 * 100.0

# Of a thousand rows that are as they should be, one may be called short.
CHANCE_OF_INJUSTICE = 0.001


class Way(Enum):
    """How two hosts come together."""

    DIAL = "dial"
    DIAL_BACK = "dial back"
    MEET = "meet"  # over UDP, at the initiator, which anybody reaches
    PUNCH = "punch"
    GUESS = "guess"
    RELAY = "relay"  # nothing else is even tried
    RELAY_IN_VAIN = "relay in vain"  # physics leave no path, but neither end can know that

    @property
    def plugins(self) -> tuple[str, ...]:
        """Any of which may win."""
        return {
            Way.DIAL: ("direct_connect",),
            Way.DIAL_BACK: ("reverse_connect",),
            Way.MEET: ("udp_punch",),
            Way.PUNCH: ("tcp_punch", "udp_punch"),
            Way.GUESS: ("random_probe",),
        }.get(self, ("turn",))

    @property
    def outcome(self) -> ConnectionOutcome:
        """What becomes of the connection."""
        relayed = self in (Way.RELAY, Way.RELAY_IN_VAIN)
        return ConnectionOutcome.RELAYED if relayed else ConnectionOutcome.DIRECT


@dataclass(frozen=True, slots=True)
class Row:
    """An ordered pair of hosts, the way they come together, and in which share of the repeats at least."""

    initiator: str
    responder: str
    way: Way
    share: float = 1.0
    pin: Pin = OPEN

    def __str__(self) -> str:
        pins = [self.pin.plugin, self.pin.af and f"IPv{self.pin.af}", self.pin.route]
        return " ".join([self.initiator, self.responder, *(str(pin) for pin in pins if pin)])


def bound_ms(way: Way, plugin: str) -> float:
    """How long a connection may take that this plugin has won, in the median: round trips of the signal, of the path,
    and what a technique takes besides. Each has one to spare for programs that take their time."""
    if way is Way.MEET:
        return SIGNAL_RTT_MS + 3 * PATH_RTT_MS
    return {
        "direct_connect": 4 * PATH_RTT_MS,  # SYN; HELLO and PROOF on it where a signal is late; TAKE and AGREED
        "reverse_connect": SIGNAL_RTT_MS + 3 * PATH_RTT_MS,
        "udp_punch": 4 * SIGNAL_RTT_MS + 2 * PATH_RTT_MS,
        "tcp_punch": 4 * SIGNAL_RTT_MS + 2 * PATH_RTT_MS + 300.0,
        "random_probe": 4 * SIGNAL_RTT_MS + 2 * PATH_RTT_MS + GUESSES_MS,
        "turn": RELAY_MS + (IN_VAIN_MS if way is Way.RELAY_IN_VAIN else 0.0),
    }[plugin]


def bad_day_bound_ms(way: Way, plugin: str) -> float:
    """The same on a bad day: the signals that a connection waits for are late, and two packets are lost."""
    signals, lost_ms = {
        "direct_connect": (0, LOST_OVER_TCP_MS),
        "reverse_connect": (1, LOST_OVER_TCP_MS),
        "udp_punch": (2, LOST_OVER_UDP_MS),
        "tcp_punch": (2, LOST_OVER_TCP_MS),
        "random_probe": (2, LOST_OVER_UDP_MS),
        "turn": (2, LOST_OVER_TCP_MS),  # for those without UDP
    }[plugin]
    return bound_ms(way, plugin) + signals * SIGNAL_LATE_MS + LOSSES * lost_ms + JITTER_MS


def predictable(nat: NatSpec) -> bool:
    """Whether its external port for a new destination can be known beforehand (RFC 4787 sections 4.1 and 4.2)."""
    return nat.mapping is Mapping.EIM or nat.port_assignment is PortAssignment.SEQUENTIAL


def sees_any_port(nat: NatSpec) -> bool:
    """Whether a packet from an address that was sent to comes in, whatever its port (section 5), at a known port."""
    return nat.mapping is Mapping.EIM and nat.filtering is not Filtering.APDF


def way_between(mine: NatSpec | None, theirs: NatSpec | None) -> Way:
    """What the two routers leave possible; None is no router."""
    if theirs is None:
        return Way.DIAL
    if mine is None:
        return Way.DIAL_BACK if theirs.udp_blocked else Way.MEET
    if mine.udp_blocked or theirs.udp_blocked:  # and only a few TCP ports out, none of which anybody listens on
        return Way.RELAY
    if (predictable(mine) and predictable(theirs)) or sees_any_port(mine) or sees_any_port(theirs):
        return Way.PUNCH
    return Way.GUESS if Mapping.EIM in (mine.mapping, theirs.mapping) else Way.RELAY


def share_of(way: Way, *nats: NatSpec | None) -> float:
    """In how many of the repeats that has to succeed."""
    if way is Way.GUESS:
        return 0.98
    sequential = any(nat and nat.port_assignment is PortAssignment.SEQUENTIAL for nat in nats)
    return 0.95 if way is Way.PUNCH and sequential else 1.0


def too_few(successes: int, tries: int, share: float) -> bool:
    """Whether so few would hardly come about by chance, if each try succeeded with probability `share`: the exact
    binomial test, one-sided. With a share of 1 any failure is one too many."""
    so_few = sum(comb(tries, k) * share**k * (1 - share) ** (tries - k) for k in range(successes + 1))
    return so_few < CHANCE_OF_INJUSTICE


def of_presets() -> Iterator[Row]:
    """Every ordered pair of presets, each one's host with another one's peer."""
    for initiator, mine in PRESETS.items():
        for responder, theirs in PRESETS.items():
            way = way_between(mine, theirs)
            yield Row(initiator, responder + PEER, way, share_of(way, mine, theirs))


def of_one(plugin: str, share: float) -> Iterator[Row]:
    """One punch alone, between all whose ports are the same for any destination, behind a router or not."""
    steady = [name for name, nat in PRESETS.items() if not nat or (nat.mapping is Mapping.EIM and not nat.udp_blocked)]
    for initiator in steady:
        for responder in steady:
            yield Row(initiator, responder + PEER, Way.PUNCH, share, Pin(plugin))


def both(one: str, two: str, way: Way, share: float = 1.0, pin: Pin = OPEN) -> Iterator[Row]:
    """Both orders of a pair, which come together in one way."""
    yield Row(one, two, way, share, pin)
    yield Row(two, one, way, share, pin)


def pinned(af: AddressFamily | None = None, route: RouteType | None = None, only: str | None = None) -> Pin:
    """What a row pins."""
    return Pin(only, af, route)


def special() -> Iterator[Row]:
    """Where there is more between two hosts than one router of a preset each."""
    # Double NAT: outside it is what its parts make it, an endpoint-independent mapping behind the strictest filter.
    yield from both("carried", "full_cone", Way.PUNCH)
    yield from both("carried", "port_restricted", Way.PUNCH)
    yield from both("carried", "eim_random_ports", Way.PUNCH)
    yield from both("carried", "symmetric_sequential", Way.PUNCH, 0.95)
    yield from both("carried", "symmetric_random", Way.GUESS, 0.98)
    yield Row("carried", "public", Way.DIAL)
    yield Row("public", "carried", Way.MEET)
    # Two homes of one carrier: by way of its external addresses where it hairpins, and else nothing tells either home
    # the other's address inside the carrier's network.
    yield from both("carried", "carried_peer", Way.PUNCH)
    yield from both("parted", "parted_peer", Way.RELAY_IN_VAIN)
    # One NAT: the local addresses, whether it hairpins or not; one machine: those, or its loopback interface.
    yield from both("desktop", "laptop", Way.DIAL)
    yield from both("console", "phone", Way.DIAL)
    yield from both("symmetric_random", "symmetric_random_beside", Way.DIAL)
    yield from both("symmetric_random", "symmetric_random_beside", Way.DIAL, pin=pinned(route=RouteType.LOOPBACK))
    # IPv6 is not translated: two stateful firewalls are punched, an open network is dialled.
    yield from both("six_firewalled", "six_firewalled_symmetric", Way.PUNCH, pin=pinned(af=6))
    yield from both("six_firewalled", "six_firewalled_symmetric", Way.PUNCH)
    yield from both("six_firewalled", "six_firewalled_symmetric", Way.GUESS, 0.98, pin=pinned(af=4))
    yield Row("six_firewalled", "six_open", Way.DIAL, pin=pinned(af=6))
    yield Row("six_open", "six_firewalled", Way.MEET, pin=pinned(af=6))
    # Routers that answer a SYN too early with RST.
    yield from both("resetting", "resetting_peer", Way.PUNCH)
    yield from both("resetting", "resetting_peer", Way.PUNCH, 0.98, pin=pinned(only="tcp_punch"))
    yield from both("resetting", "full_cone", Way.PUNCH, 0.98, pin=pinned(only="tcp_punch"))
    # UDP mappings that live for 15 s.
    yield from both("forgetful", "forgetful_peer", Way.PUNCH)
    yield from both("forgetful", "forgetful_peer", Way.PUNCH, pin=pinned(only="udp_punch"))
    yield from both("forgetful", "symmetric_random", Way.GUESS, 0.98)
    # A carrier's NAT that gives each customer a block of 1,024 ports.
    yield from both("port_block", "port_restricted", Way.GUESS, 0.98)
    # Routers that map a port for whoever asks behind them, whatever their NAT is otherwise.
    for mapped in ("mapped_by_pcp", "mapped_by_natpmp", "mapped_by_upnp"):
        yield Row("symmetric_random", mapped, Way.DIAL)
        yield Row(mapped, "symmetric_random", Way.DIAL_BACK)
        yield Row("udp_blocked", mapped, Way.RELAY_IN_VAIN)
    yield Row("mapped_by_upnp", "mapped_by_pcp", Way.DIAL)
    # A mapping for each address, at random ports: like one for each endpoint, to whoever has one endpoint.
    yield from both("address_dependent", "addr_restricted", Way.PUNCH)
    yield from both("address_dependent", "eim_random_ports", Way.GUESS, 0.98)


TABLE = (*of_presets(), *special())
UDP_TABLE = tuple(of_one("udp_punch", 1.0))
TCP_TABLE = tuple(of_one("tcp_punch", 0.98))


def adverse(topology: Topology) -> Topology:
    """The same on a bad day: 5 % loss and 30 ms of jitter on each path, which is two lines, and signals that are 500 ms
    late, for which they cross the broker's line twice."""
    bad = {"loss": 0.025, "jitter_ms": 15.0}
    # The lines behind a router are as good as ever, and one that is `beside` another has none.
    routers = [router if router.behind else router.model_copy(update=bad) for router in topology.routers]
    hosts = [host if host.behind or host.beside else host.model_copy(update=bad) for host in topology.hosts]
    return topology.model_copy(update={"broker_delay_ms": 250.0, "routers": tuple(routers), "hosts": tuple(hosts)})
