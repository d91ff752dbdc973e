"""A topology laid out: namespaces, links, addresses, rulesets. Pure; `laboratory` carries it out.

Every line to the internet is a link of its own between `core` and a router or a public host, unnumbered on the core's
side: the core has one address, a host route per line, and permanent neighbours at both ends, so that no ARP is ever
needed and no neighbour table overflows however many hosts there are.
"""

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from warpfleet.configs.line import PERFECT, LineQuality
from warpfleet.configs.topology import BROKER, CORE, HostSpec, Ipv6, RouterSpec, Topology
from warpfleet.core.errors import InputError
from warpfleet.core.port_mapping import PortMapping
from warpfleet.lab.nat_rules import LAN, WAN, ruleset
from warpfleet.lab.netns import add_address
from warpfleet.lab.servers import BROKER as BROKER_V4
from warpfleet.lab.servers import V6

CORE_V4, CORE_V6 = "203.0.113.1", "2001:db8:ffff::1"
LINES = IPv4Network("198.18.0.0/16")  # RFC 2544: one external address a line
# The same for routers that map ports: the daemon refuses to where its own address is of a range that RFC 6890 lists.
# This one IANA keeps to itself, and nobody uses it.
MAPPING_LINES = IPv4Network("192.0.1.0/24")
FIREWALLED = IPv4Network("198.19.0.0/16")  # RFC 2544: public addresses behind routers that do not translate
FIREWALLED_PREFIX = 28
HOME, LARGE_HOME = IPv4Network("192.168.1.0/24"), IPv4Network("10.0.0.0/16")
_HOST_DEVICE = "eth0"

_IPV4_SYSCTLS = {
    f"net/ipv4/conf/{scope}/{key}": "0" for scope in ("all", "default") for key in ("rp_filter", "send_redirects")
}
NO_IPV6 = {f"net/ipv6/conf/{scope}/disable_ipv6": "1" for scope in ("all", "default")}
_IPV6_SYSCTLS = {
    f"net/ipv6/conf/{scope}/{key}": "0"
    for scope in ("all", "default")
    for key in ("accept_dad", "accept_ra", "router_solicitations")
}
_FORWARDING = {"net/ipv4/ip_forward": "1"}
# What passes between two hosts of one network is the bridge's business, not the firewall's.
_PLAIN_BRIDGE = {f"net/bridge/bridge-nf-call-{table}": "0" for table in ("iptables", "ip6tables", "arptables")}
_IPV6_FORWARDING = {"net/ipv6/conf/all/forwarding": "1"}


@dataclass(slots=True)
class Namespace:
    """One network namespace to be. `commands` are lines for `ip -batch` inside it, in order."""

    name: str
    sysctls: dict[str, str] = field(default_factory=dict)  # path under /proc/sys -> value
    commands: list[str] = field(default_factory=list)
    ruleset: str | None = None
    port_mapping: tuple[PortMapping, ...] = ()
    lan_ip: str = ""  # of a router: its own address in the network behind it


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: a device in a namespace, and its link-layer address."""

    namespace: str
    device: str
    mac: str


@dataclass(frozen=True, slots=True)
class Link:
    """A point-to-point Ethernet link."""

    a: End
    b: End
    quality: LineQuality


@dataclass(frozen=True, slots=True)
class Node:
    """A host as the fleet file lists it."""

    name: str
    namespace: str
    listen: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a laboratory consists of, apart from its servers. Namespaces are in order, the core first;
    `broker` is that of the MQTT broker."""

    lab: str
    realm: str
    dual_stack: bool
    broker: str
    namespaces: tuple[Namespace, ...]
    links: tuple[Link, ...]
    nodes: tuple[Node, ...]


def namespace_name(lab: str, place: str) -> str:
    """`wf.<lab>.<place>`: no name of a laboratory or a host has a dot, so no two laboratories can meet."""
    return f"{namespace_prefix(lab)}{place}"


def namespace_prefix(lab: str) -> str:
    """What every namespace of this laboratory begins with, and none of another."""
    return f"wf.{lab}."


def layout(topology: Topology, lab: str) -> Plan:
    """Lay out a topology under the name `lab`. InputError where it has more hosts than addresses."""
    return _Layout(topology, lab).plan()


@dataclass(frozen=True, slots=True)
class _Network:
    """The network behind a router, as its members see it."""

    prefix: IPv4Network
    prefix_v6: str | None  # without its length

    def address(self, member: int) -> str:
        return str(self.prefix.network_address + member)

    def address_v6(self, member: int) -> str:
        return f"{self.prefix_v6}{member:x}"


class _Layout:
    def __init__(self, topology: Topology, lab: str) -> None:
        self._lab = lab
        self._topology = topology
        self._routers = {router.name: router for router in topology.all_routers()}
        self._dual = any(router.ipv6 is not Ipv6.NONE for router in self._routers.values()) or any(
            host.public and host.ipv6 is Ipv6.OPEN for host in topology.hosts
        )
        self._namespaces: dict[str, Namespace] = {}
        self._links: list[Link] = []
        self._networks: dict[str, _Network] = {}
        self._members: dict[str, int] = {}  # router -> the last member number given out in the network behind it
        self._lan_macs: dict[str, str] = {}
        self._hops_v6: dict[str, str] = {}  # router -> how the one above it reaches it
        self._lines = 0
        self._addresses: Counter[IPv4Network] = Counter()
        self._macs = 0

    def plan(self) -> Plan:
        self._add_core()
        broker = self._add_broker() if self._topology.broker_delay_ms else namespace_name(self._lab, CORE)
        for router in sorted(self._routers.values(), key=lambda router: len(self._chain(router))):
            self._add_router(router)
        nodes = tuple(self._add_host(host) for host in self._topology.hosts)
        return Plan(
            self._lab,
            self._topology.realm,
            self._dual,
            broker,
            tuple(self._namespaces.values()),
            tuple(self._links),
            nodes,
        )

    def _chain(self, router: RouterSpec) -> list[RouterSpec]:
        """The routers between this one and the internet, the nearest first."""
        chain = []
        while router.behind is not None:
            router = self._routers[router.behind]
            chain.append(router)
        return chain

    def _namespace(self, place: str, *, forwarding: bool, ipv6: bool) -> Namespace:
        sysctls = dict(_IPV4_SYSCTLS) | (_FORWARDING if forwarding else {})
        sysctls |= (_IPV6_SYSCTLS | (_IPV6_FORWARDING if forwarding else {})) if ipv6 else NO_IPV6
        namespace = Namespace(namespace_name(self._lab, place), sysctls, ["link set lo up"])
        self._namespaces[place] = namespace
        return namespace

    def _mac(self) -> str:
        self._macs += 1
        return "02:57:46:" + ":".join(f"{byte:02x}" for byte in self._macs.to_bytes(3, "big"))

    def _add_core(self) -> None:
        core = self._namespace(CORE, forwarding=True, ipv6=self._dual)
        # The internet answers nothing for addresses that it does not route, private ones above all.
        core.commands += [add_address(f"{CORE_V4}/32", "lo"), "route add blackhole 0.0.0.0/0"]
        if self._dual:
            core.commands += [add_address(f"{CORE_V6}/128", "lo"), "route add blackhole ::/0"]

    def _add_broker(self) -> str:
        """A place of its own for the broker, whose line alone delays signals, and nothing else."""
        here = self._namespace(BROKER, forwarding=False, ipv6=self._dual)
        quality = LineQuality(self._topology.broker_delay_ms)
        device, address, address_v6 = self._add_line(BROKER, _HOST_DEVICE, quality, ipv6=self._dual)
        core = self._namespaces[CORE]
        core.commands.append(f"route add {BROKER_V4} via {address} dev {device} onlink")
        if address_v6:
            core.commands.append(f"route add {V6[BROKER_V4]} via {address_v6} dev {device} onlink")
        return here.name

    def _link(self, upper: End, lower: End, quality: LineQuality) -> None:
        self._links.append(Link(upper, lower, quality))
        for end in (upper, lower):
            place = end.namespace.removeprefix(namespace_prefix(self._lab))
            commands = self._namespaces[place].commands
            commands.append(f"link set {end.device} up")

    def _add_line(
        self, place: str, device: str, quality: LineQuality, *, ipv6: bool, lines: IPv4Network = LINES
    ) -> tuple[str, str, str | None]:
        """A line from the core to a place on the internet: its device on the core's side, and the place's addresses."""
        self._lines += 1
        self._addresses[lines] += 1
        if self._addresses[lines] >= lines.num_addresses - 1:
            raise InputError(
                f"topology '{self._topology.name}' has more than {lines.num_addresses - 2} lines of a kind"
            )
        core, here = self._namespaces[CORE], self._namespaces[place]
        upper, lower = End(core.name, f"line{self._lines}", self._mac()), End(here.name, device, self._mac())
        self._link(upper, lower, quality)
        address = str(lines.network_address + self._addresses[lines])
        pairs = [(f"{address}/32", address, CORE_V4, "0.0.0.0/0")]
        address_v6 = f"2001:db8:fffe::{self._lines:x}" if ipv6 else None
        if address_v6:
            pairs.append((f"{address_v6}/128", address_v6, CORE_V6, "::/0"))
        for host_route, mine, gateway, everything in pairs:
            core.commands += [
                f"route add {host_route} dev {upper.device}",
                f"neigh add {mine} lladdr {lower.mac} dev {upper.device} nud permanent",
            ]
            here.commands += [
                add_address(host_route, device),
                f"neigh add {gateway} lladdr {upper.mac} dev {device} nud permanent",
                f"route add {everything} via {gateway} dev {device} onlink",
            ]
        return upper.device, address, address_v6

    def _join(self, place: str, device: str, router: RouterSpec, quality: LineQuality) -> tuple[str, str | None]:
        """A place in the network behind a router: its IPv4 address, and its IPv6 one where the network has any."""
        member = self._members[router.name] = self._members[router.name] + 1
        network, above, here = self._networks[router.name], self._namespaces[router.name], self._namespaces[place]
        if member >= network.prefix.num_addresses - 1:
            raise InputError(f"router '{router.name}' has more than {network.prefix.num_addresses - 3} hosts behind it")
        upper, lower = End(above.name, f"port{member}", self._mac()), End(here.name, device, self._mac())
        self._link(upper, lower, quality)
        above.commands.append(f"link set {upper.device} master {LAN}")
        address = network.address(member)
        ends = [(address, network.prefix.prefixlen, network.address(1), "0.0.0.0/0")]
        address_v6 = network.address_v6(member) if network.prefix_v6 else None
        if address_v6:
            ends.append((address_v6, 64, network.address_v6(1), "::/0"))
        for mine, length, gateway, everything in ends:
            above.commands.append(f"neigh add {mine} lladdr {lower.mac} dev {LAN} nud permanent")
            here.commands += [
                add_address(f"{mine}/{length}", device),
                f"neigh add {gateway} lladdr {self._lan_macs[router.name]} dev {device} nud permanent",
                f"route add {everything} via {gateway} dev {device}",
            ]
        return address, address_v6

    def _add_router(self, router: RouterSpec) -> None:
        ipv6 = router.ipv6 is not Ipv6.NONE
        here = self._namespace(router.name, forwarding=True, ipv6=ipv6)
        lifetime = str(router.nat.udp_lifetime_s)
        here.sysctls |= _PLAIN_BRIDGE | {
            "net/netfilter/nf_conntrack_udp_timeout": lifetime,
            "net/netfilter/nf_conntrack_udp_timeout_stream": lifetime,
        }
        network = self._networks[router.name] = self._network_behind(router)
        self._add_lan(here, router, network)
        if router.behind is None:
            lines = MAPPING_LINES if router.nat.port_mapping else LINES
            core_device, address, address_v6 = self._add_line(router.name, WAN, router.quality, ipv6=ipv6, lines=lines)
            if not router.nat.translated:
                self._namespaces[CORE].commands.append(
                    f"route add {network.prefix} via {address} dev {core_device} onlink"
                )
            self._hops_v6[router.name] = f"via {address_v6} dev {core_device} onlink"
        else:
            address, address_v6 = self._join(router.name, WAN, self._routers[router.behind], router.quality)
            self._hops_v6[router.name] = f"via {address_v6} dev {LAN}"
        if network.prefix_v6:
            for hop in (router, *self._chain(router)):
                above = self._namespaces[hop.behind or CORE]
                above.commands.append(f"route add {network.prefix_v6}/64 {self._hops_v6[hop.name]}")
        here.ruleset = ruleset(router, address, str(network.prefix))
        here.port_mapping, here.lan_ip = router.nat.port_mapping, network.address(1)

    def _network_behind(self, router: RouterSpec) -> _Network:
        index = len(self._networks) + 1
        prefix_v6 = f"2001:db8:{index:x}::" if router.ipv6 is not Ipv6.NONE else None
        if not router.nat.translated:
            offset = index << (32 - FIREWALLED_PREFIX)
            if offset >= FIREWALLED.num_addresses:
                raise InputError(f"topology '{self._topology.name}' has too many routers that do not translate")
            return _Network(IPv4Network((int(FIREWALLED.network_address) + offset, FIREWALLED_PREFIX)), prefix_v6)
        carries = any(other.behind == router.name for other in self._routers.values())
        if carries:  # RFC 6598: the shared space between a carrier's NAT and its customers' routers
            return _Network(IPv4Network(f"100.{64 + len(self._chain(router))}.0.0/16"), prefix_v6)
        hosts = sum(host.behind == router.name for host in self._topology.hosts)
        return _Network(HOME if hosts < HOME.num_addresses - 3 else LARGE_HOME, prefix_v6)

    def _add_lan(self, here: Namespace, router: RouterSpec, network: _Network) -> None:
        self._members[router.name] = 1
        self._lan_macs[router.name] = self._mac()
        here.commands += [
            f"link add {LAN} address {self._lan_macs[router.name]} type bridge mcast_snooping 0",
            f"link set {LAN} up",
            add_address(f"{network.address(1)}/{network.prefix.prefixlen}", LAN),
        ]
        if network.prefix_v6:
            here.commands.append(add_address(f"{network.address_v6(1)}/64", LAN))

    def _add_host(self, host: HostSpec) -> Node:
        if host.beside:
            return Node(host.name, namespace_name(self._lab, host.beside), host.listen or (0,))
        router = self._routers.get(host.behind or f"{host.name}.router")
        ipv6 = (host.ipv6 is Ipv6.OPEN) if router is None else (router.ipv6 is not Ipv6.NONE)
        here = self._namespace(host.name, forwarding=False, ipv6=ipv6)
        if router is None:
            self._add_line(host.name, _HOST_DEVICE, host.quality, ipv6=ipv6)
        else:
            # Where the router is the host's own, the quality is that of the router's line.
            self._join(host.name, _HOST_DEVICE, router, host.quality if host.behind else PERFECT)
        return Node(host.name, here.name, host.listen or ((443, 0) if host.public else (0,)))
