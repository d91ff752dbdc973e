"""What the planner knows of one end of a pair."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from warpfleet.core.endpoint import Endpoint, Interface, Scope, scope_of
from warpfleet.core.nat import NatBehaviour

AddressFamily = int
ADDRESS_FAMILIES: tuple[AddressFamily, ...] = (4, 6)
_KNOWN_MAX = 4096  # subnets of addresses that are kept: each plan asks for a dozen


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One node as its address record shows it.

    `machine` stands for the loopback interface it has: equal for two nodes that share one. `listeners` are bound
    transport addresses, unspecified ones included. `external` has the external address of each family that has one,
    `mapped` where port mappings and pinholes let strangers in to a listener, `standing` by plugin the UDP port at the
    external address of a family where a socket of that plugin always hears whom the node's NAT lets in.
    """

    name: str
    machine: str
    interfaces: tuple[Interface, ...] = ()
    listeners: tuple[Endpoint, ...] = ()
    external: dict[AddressFamily, str] = field(default_factory=dict)
    nat: dict[AddressFamily, NatBehaviour] = field(default_factory=dict)
    relay: bool = False
    mapped: tuple[Endpoint, ...] = ()
    standing: dict[str, dict[AddressFamily, int]] = field(default_factory=dict)

    def with_mapped(self, claimed: Iterable[Endpoint]) -> "PeerView":
        """The same with these mappings, as far as they lead to the node itself: at its external IPv4 address, or at an
        IPv6 one that it has, by its own word: no gateway of theirs adds to where a record leads."""
        own = {interface.ip for interface in self.addresses(6)} | set(self.external.values())
        return replace(self, mapped=tuple(endpoint for endpoint in claimed if endpoint.ip in own))

    def mappings(self, af: AddressFamily) -> tuple[Endpoint, ...]:
        """The mappings of one family."""
        return tuple(endpoint for endpoint in self.mapped if endpoint.af == af)

    def standing_endpoint(self, plugin: str, af: AddressFamily) -> Endpoint | None:
        """Where the standing UDP socket of a plugin and a family is, where there is one."""
        port = self.standing.get(plugin, {}).get(af)
        return Endpoint(self.external[af], port) if port and af in self.external else None

    def hears(self, af: AddressFamily) -> bool:
        """Whether a UDP socket of one family stands."""
        return any(af in ports for ports in self.standing.values())

    def behaviour(self, af: AddressFamily) -> NatBehaviour:
        """The NAT behaviour of one family; all unknown where nothing is known."""
        return self.nat.get(af, NatBehaviour())

    def addresses(self, af: AddressFamily) -> tuple[Interface, ...]:
        """The interface addresses of one family that lead anywhere: no loopback, no link-local ones."""
        usable = (Scope.GLOBAL, Scope.PRIVATE)
        return tuple(i for i in self.interfaces if Endpoint(i.ip, 0).af == af and scope_of(i.ip) in usable)

    def ports(self, af: AddressFamily) -> tuple[int, ...]:
        """The TCP ports it listens on over one family, loopback listeners left out, well-known ones first."""
        ports = {e.port for e in self.listeners if e.af == af and scope_of(e.ip) is not Scope.LOOPBACK}
        return tuple(sorted(ports))

    @property
    def udp_blocked(self) -> bool:
        """Whether UDP is known not to get out, in every family that was looked at."""
        return bool(self.nat) and all(behaviour.udp is False for behaviour in self.nat.values())


def shared_subnet(mine: PeerView, theirs: PeerView, af: AddressFamily) -> tuple[Interface, ...]:
    """The peer's interface addresses that lie in a subnet of ours."""
    networks = {_subnet(i.ip, i.prefix_len) for i in mine.addresses(af)}
    return tuple(i for i in theirs.addresses(af) if any(_subnet(i.ip, n.prefixlen) == n for n in networks))


@lru_cache(_KNOWN_MAX)
def _subnet(ip: str, prefix_len: int) -> IPv4Network | IPv6Network:
    return ip_network((ip, prefix_len), strict=False)


def same_network(mine: PeerView, theirs: PeerView, af: AddressFamily) -> bool:
    """Whether both ends sit in one subnet behind one external address.

    Two homes often have the same private subnet: only the external address tells them apart.
    """
    external = mine.external.get(af), theirs.external.get(af)
    shares_exit = external[0] == external[1] or all(scope_of(i.ip) is Scope.GLOBAL for i in theirs.addresses(af))
    return shares_exit and bool(shared_subnet(mine, theirs, af))
