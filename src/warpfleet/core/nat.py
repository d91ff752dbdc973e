"""NAT behaviour as a point in the space of RFC 4787, and the names people use for some of its points."""

from dataclasses import dataclass
from enum import StrEnum

from warpfleet.core.port_range import PortRange


class Mapping(StrEnum):
    """How external ports are chosen for one internal endpoint (RFC 4787 section 4.1)."""

    EIM = "EIM"  # endpoint-independent: one external port for every destination
    ADM = "ADM"  # address-dependent: one per destination address
    APDM = "APDM"  # address- and port-dependent: one per destination endpoint
    UNKNOWN = "unknown"


class Filtering(StrEnum):
    """From whom a mapped port lets packets in (RFC 4787 section 5)."""

    EIF = "EIF"  # endpoint-independent: from anybody
    ADF = "ADF"  # address-dependent: from addresses we have sent to
    APDF = "APDF"  # address- and port-dependent: from endpoints we have sent to
    UNKNOWN = "unknown"


class PortAssignment(StrEnum):
    """Which external port a new mapping gets (RFC 4787 section 4.2)."""

    PRESERVING = "preserving"
    RANDOM = "random"
    SEQUENTIAL = "sequential"
    UNKNOWN = "unknown"


class NatSource(StrEnum):
    """How a behaviour came to be known."""

    RFC5780 = "rfc5780"  # every test was run
    OBSERVATORY = "observatory"  # it was known of the exit, and a check did not contradict it


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBehaviour:
    """What is known of the NATs between one node and the internet, for one address family.

    `translated` is whether the external address differs from the interface's; `udp` is whether UDP gets out
    and back at all. None means that it was not found out. `port_delta` is the step between consecutive
    mappings of a sequential allocator, in ports; `port_range` the block that a random one draws from, as far as it was
    seen (None also where it draws from all ports); `lifetime_s` the idle lifetime of a UDP mapping, in seconds.
    """

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    port_assignment: PortAssignment = PortAssignment.UNKNOWN
    port_delta: int | None = None
    port_range: PortRange | None = None
    hairpin: bool | None = None
    lifetime_s: float | None = None
    translated: bool | None = None
    udp: bool | None = None

    @property
    def complete(self) -> bool:
        """Whether everything that decides about techniques is known; of blocked UDP there is no more to know."""
        unknown = {Mapping.UNKNOWN, Filtering.UNKNOWN, PortAssignment.UNKNOWN}
        return self.udp is False or unknown.isdisjoint((self.mapping, self.filtering, self.port_assignment))

    @property
    def open(self) -> bool:
        """Whether the node is reachable by anybody who knows its address (no NAT, no firewall)."""
        return self.translated is False and self.filtering is Filtering.EIF

    @property
    def signature(self) -> str:
        """What decides which techniques work, in one word: equal for NATs that a technique cannot tell apart."""
        translated = {True: "translated", False: "untranslated", None: "unknown"}[self.translated]
        udp = {True: "udp", False: "no_udp", None: "unknown"}[self.udp]
        return f"{self.mapping}/{self.filtering}/{self.port_assignment}/{translated}/{udp}"

    @property
    def alias(self) -> str:
        """The name people use for this behaviour, for display only: the model never reads it."""
        if self.udp is False:
            return "udp_blocked"
        if self.translated is False:
            return {Filtering.EIF: "public", Filtering.UNKNOWN: "unknown"}.get(self.filtering, "public_firewalled")
        if self.mapping is Mapping.EIM:
            return self._cone_alias()
        if self.mapping in (Mapping.ADM, Mapping.APDM):
            kind = {PortAssignment.SEQUENTIAL: "_sequential", PortAssignment.RANDOM: "_random"}
            return "symmetric" + kind.get(self.port_assignment, "")
        return "unknown"

    def _cone_alias(self) -> str:
        if self.filtering is Filtering.APDF and self.port_assignment is PortAssignment.RANDOM:
            return "eim_random_ports"
        return {
            Filtering.EIF: "full_cone",
            Filtering.ADF: "addr_restricted",
            Filtering.APDF: "port_restricted",
            Filtering.UNKNOWN: "cone",
        }[self.filtering]
