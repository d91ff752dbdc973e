"""From what the tests of RFC 5780 saw to a NAT's behaviour in RFC 4787's terms. What was not seen stays unknown."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import gcd

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_range import learned, suspected

MIN_PORTS = 4  # fewer mappings show no pattern that chance could not
# Between consecutive mappings of a sequential allocator lies its step, times what others take meanwhile.
MAX_GAP_PORTS = 64
MAX_GAP_STEPS = 4  # for allocators with a large step
PORTS = 65_536
# Whether packets come in from another address and port, and from another port of an address that was sent to.
_ADMITTED = {Filtering.EIF: (True, True), Filtering.ADF: (False, True), Filtering.APDF: (False, False)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What one node saw, for one address family. None: a test was not run, or its silence proves nothing.

    `mapped` holds (destination, mapped address) of one socket; `ports` holds (local port, external port) of fresh
    sockets towards one destination, in their order of sending, and `more_ports` those of more such sockets that asked
    later, where the first left doubts; `change_both` and `change_port` are whether answers came in from the server's
    other address and port, and from its other port (RFC 5780 section 4.4).
    """

    local_ips: frozenset[str] = frozenset()
    mapped: tuple[tuple[Endpoint, Endpoint], ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    more_ports: tuple[tuple[int, int], ...] = ()
    change_both: bool | None = None
    change_port: bool | None = None
    hairpin: bool | None = None
    tcp_mapped: Endpoint | None = None

    @property
    def external_ip(self) -> str | None:
        """The address that servers see."""
        if self.mapped:
            return self.mapped[0][1].ip
        return self.tcp_mapped.ip if self.tcp_mapped is not None else None

    @property
    def external_ports(self) -> frozenset[int]:
        """The ports of all mappings over UDP."""
        fresh = (external for _, external in (*self.ports, *self.more_ports))
        return frozenset((*fresh, *(mapped.port for _, mapped in self.mapped)))


def classify(seen: Observations) -> NatBehaviour:
    """The behaviour that the observations prove. UDP counts as blocked only where TCP was answered and UDP was not."""
    translated = seen.external_ip not in seen.local_ips if seen.external_ip is not None else None
    if not seen.mapped:
        return NatBehaviour(translated=translated, udp=False if seen.tcp_mapped is not None else None)
    if translated:
        mapping = mapping_of(seen.mapped)
        assignment, delta = port_assignment_of(seen.ports, seen.more_ports)
    else:
        mapping, assignment, delta = Mapping.EIM, PortAssignment.PRESERVING, None
    return NatBehaviour(
        mapping=mapping,
        filtering=filtering_of(seen.change_both, seen.change_port),
        port_assignment=assignment,
        port_delta=delta,
        port_range=learned(seen.external_ports) if assignment is PortAssignment.RANDOM else None,
        hairpin=seen.hairpin if translated and (seen.hairpin or mapping is Mapping.EIM) else None,
        translated=translated,
        udp=True,
    )


def mapping_of(mapped: Sequence[tuple[Endpoint, Endpoint]]) -> Mapping:
    """RFC 5780 section 4.3, for any set of destinations.

    A mapping that differs between two addresses, and was not compared between two ports of one, counts as APDM: purely
    address-dependent ones are rare, and are traversed in the same ways.
    """
    pairs = list(combinations(mapped, 2))
    if any(a.ip == b.ip and seen_a != seen_b for (a, seen_a), (b, seen_b) in pairs):
        return Mapping.APDM
    across = [seen_a == seen_b for (a, seen_a), (b, seen_b) in pairs if a.ip != b.ip]
    if not across:
        return Mapping.UNKNOWN
    if all(across):
        return Mapping.EIM
    return Mapping.ADM if any(a.ip == b.ip for (a, _), (b, _) in pairs) else Mapping.APDM


def filtering_of(change_both: bool | None, change_port: bool | None) -> Filtering:
    """RFC 5780 section 4.4."""
    if change_both:
        return Filtering.EIF
    if change_both is None or change_port is None:
        return Filtering.UNKNOWN
    return Filtering.ADF if change_port else Filtering.APDF


def leaves_doubts(seen: Observations) -> bool:
    """Whether more ports would say more of a NAT whose mappings depend on the destination: these may be of a block, or
    in sequence by chance, as in a small block."""
    if not seen.mapped or mapping_of(seen.mapped) not in (Mapping.ADM, Mapping.APDM):
        return False
    assignment, delta = port_assignment_of(seen.ports)
    if assignment is PortAssignment.SEQUENTIAL:
        return any(_signed(b - a) != delta for (_, a), (_, b) in pairwise(seen.ports))
    return assignment is PortAssignment.RANDOM and suspected(seen.external_ports)


def port_assignment_of(
    ports: Sequence[tuple[int, int]], more: Sequence[tuple[int, int]] = ()
) -> tuple[PortAssignment, int | None]:
    """How external ports are chosen, and the step of a sequential allocator (RFC 4787 section 4.2). `more` are of a
    later look, between which and the first others may have taken any number of ports."""
    if len(ports) < MIN_PORTS:
        return PortAssignment.UNKNOWN, None
    if 2 * sum(local == external for local, external in ports) > len(ports):
        return PortAssignment.PRESERVING, None
    delta = _step([external for _, external in ports])
    if delta is not None and more and not _in_sequence([external for _, external in (*ports, *more)], delta):
        delta = None
    return (PortAssignment.RANDOM, None) if delta is None else (PortAssignment.SEQUENTIAL, delta)


def contradicted(known: NatBehaviour, seen: Observations) -> bool:
    """Whether a check (one socket's mappings, its port, and one request of each filtering test) speaks against a
    behaviour that was known to be complete. A lost packet may look as if it did."""
    found = classify(seen)
    if (found.udp, found.translated) != (known.udp, known.translated):
        return True
    if found.udp is False:
        return False
    if found.mapping is Mapping.UNKNOWN or (found.mapping is Mapping.EIM) is not (known.mapping is Mapping.EIM):
        return True
    if known.translated and not _plausible_ports(known, seen):
        return True
    return (seen.change_both, seen.change_port) != _ADMITTED.get(known.filtering)


def _plausible_ports(known: NatBehaviour, seen: Observations) -> bool:
    """Whether the ports of a check's few mappings may be of an allocator of the known kind."""
    [(local, first)] = seen.ports
    preserved = local == first
    if preserved or known.port_assignment is PortAssignment.PRESERVING:
        return preserved and known.port_assignment is PortAssignment.PRESERVING
    if known.port_range:
        return all(known.port_range.may_reach(port) for port in seen.external_ports)
    gap = max(abs(_signed(mapped.port - first)) for _, mapped in seen.mapped)
    if known.port_assignment is PortAssignment.RANDOM:
        return gap == 0 or gap > MAX_GAP_PORTS  # equal ones are an endpoint-independent mapping's
    delta = abs(known.port_delta or 1)
    return gap % delta == 0 and gap <= max(MAX_GAP_PORTS, MAX_GAP_STEPS * delta)


def _step(external: Sequence[int]) -> int | None:
    """The step of a sequential allocator; None where the ports are not in sequence.

    Packets that overtook each other, others' mappings in between, and one jump (the allocator's wrap-around) are
    put up with.
    """
    offsets = [_signed(port - external[0]) for port in external]
    gaps = sorted(b - a for a, b in pairwise(sorted(offsets)))
    step = _common_step(gaps) or _common_step(gaps[:-1])
    rising = sum(1 if b > a else -1 for a, b in pairwise(offsets))
    return step if step is None or rising > 0 else -step


def _common_step(gaps: Sequence[int]) -> int | None:
    """The step that the gaps, in rising order, are small multiples of."""
    step = gcd(*gaps)
    return step if gaps[0] > 0 and gaps[-1] <= max(MAX_GAP_PORTS, MAX_GAP_STEPS * step) else None


def _in_sequence(external: Sequence[int], delta: int) -> bool:
    """Whether ports of a sequential allocator came in this order, a third of them out of turn and one wrap-around
    allowed; or, where packets overtook each other more than that, whether half of them are but one step apart. In a
    block of 64 ports or more, chance does neither to fourteen ports once in fifty times."""
    falls = sum((b - a) * delta < 0 for a, b in pairwise((*external, external[0])))
    ranked = sorted(external)
    next_to_each_other = sum(b - a == abs(delta) for a, b in pairwise(ranked))
    return falls <= len(external) // 3 or 2 * next_to_each_other >= len(external)


def _signed(difference: int) -> int:
    """A difference of ports as the shorter way round."""
    return (difference + PORTS // 2) % PORTS - PORTS // 2
