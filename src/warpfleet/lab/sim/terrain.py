"""A topology built on the simulated internet: its hosts and routers, with the addresses of the kernel's laboratory."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from warpfleet.configs.line import PERFECT
from warpfleet.configs.topology import HostSpec, Ipv6, RouterSpec, Topology
from warpfleet.core.endpoint import Interface
from warpfleet.lab.plan import FIREWALLED, FIREWALLED_PREFIX, HOME, LARGE_HOME, LINES, MAPPING_LINES
from warpfleet.lab.servers import TURN_ONE, TURN_TWO, V6
from warpfleet.lab.sim.host import Host
from warpfleet.lab.sim.internet import Internet, Network, Prefix, Router

_DEVICE = "eth0"
SERVER_ADDRESSES = (TURN_ONE, TURN_TWO, V6[TURN_ONE], V6[TURN_TWO])


@dataclass(slots=True)
class _Place:
    """The network behind a router. `chain` are the routers from here to the internet."""

    router: Router
    chain: list[RouterSpec]
    prefix: IPv4Network
    prefix_v6: IPv6Network | None
    members: int = field(default=1)  # the first address is the router's


class Terrain:
    """The hosts of a topology by name, and one more that is the internet's own, for its servers."""

    def __init__(self, topology: Topology, seed: int) -> None:
        self.hosts: dict[str, Host] = {}
        self.delays_s: dict[str, float] = {}
        """One way from each host to the internet."""
        self.internet = Internet()
        self._seed = seed
        self._routers = {router.name: router for router in topology.all_routers()}
        self._carried = {router.behind for router in self._routers.values()}
        self._crowds: defaultdict[str | None, int] = defaultdict(int)
        for spec in topology.hosts:
            self._crowds[spec.behind] += 1
        self._places: dict[str, _Place] = {}
        self._lines = 0
        self._addresses: Counter[IPv4Network] = Counter()
        for router in sorted(self._routers.values(), key=lambda router: len(self._chain(router))):
            self._add_router(router)
        for spec in topology.hosts:
            if not spec.beside:
                self._add_host(spec)
        for spec in topology.hosts:
            if spec.beside:
                self.hosts[spec.name] = self.hosts[spec.beside]
                self.delays_s[spec.name] = self.delays_s[spec.beside]
        self.servers = Host([Interface(_DEVICE, ip, 32) for ip in SERVER_ADDRESSES], self._rng("servers"))
        self.servers.line = self.internet.attach(self.servers, PERFECT, SERVER_ADDRESSES, seed="")

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    def _chain(self, router: RouterSpec) -> list[RouterSpec]:
        """This router and those between it and the internet, the nearest first."""
        chain = [router]
        while (behind := chain[-1].behind) is not None:
            chain.append(self._routers[behind])
        return chain

    def _add_router(self, spec: RouterSpec) -> None:
        has_v6 = spec.ipv6 is not Ipv6.NONE
        lines = MAPPING_LINES if spec.nat.port_mapping else LINES
        outside = self._places.get(spec.behind) if spec.behind else None
        addresses = self._member(outside) if outside else self._line_addresses(has_v6, lines)
        router = Router(spec, addresses[0].ip, self._rng(spec.name))
        place = _Place(router, self._chain(spec), self._prefix(spec), self._prefix_v6() if has_v6 else None)
        routes: list[Prefix] = [] if spec.nat.translated else [place.prefix]
        routes += [place.prefix_v6] if place.prefix_v6 else []
        ips = [interface.ip for interface in addresses]
        seed = f"{self._seed} {spec.name}"
        router.line = self._before(spec).attach(router, spec.quality, ips, routes, seed=seed)
        if place.prefix_v6:
            self._route_v6(place)
        self._places[spec.name] = place

    def _route_v6(self, place: _Place) -> None:
        """Let every network further out know what lies behind the routers that lead here."""
        assert place.prefix_v6
        for router in place.chain[1:]:
            self._before(router).route(place.prefix_v6, self._places[router.name].router.line)

    def _before(self, router: RouterSpec) -> Network:
        """The network that a router's outside is attached to."""
        return self._places[router.behind].router.inside if router.behind else self.internet

    def _prefix(self, spec: RouterSpec) -> IPv4Network:
        if not spec.nat.translated:
            offset = (len(self._places) + 1) << (32 - FIREWALLED_PREFIX)
            return IPv4Network((int(FIREWALLED.network_address) + offset, FIREWALLED_PREFIX))
        if spec.name in self._carried:  # RFC 6598: the shared space between a carrier's NAT and its customers' routers
            return IPv4Network(f"100.{63 + len(self._chain(spec))}.0.0/16")
        return HOME if self._crowds[spec.name] < HOME.num_addresses - 3 else LARGE_HOME

    def _prefix_v6(self) -> IPv6Network:
        return IPv6Network(f"2001:db8:{len(self._places) + 1:x}::/64")

    def _line_addresses(self, has_v6: bool, lines: IPv4Network = LINES) -> list[Interface]:
        """The addresses of a line of its own to the internet."""
        self._lines += 1
        self._addresses[lines] += 1
        addresses = [Interface(_DEVICE, str(lines.network_address + self._addresses[lines]), 32)]
        return addresses + ([Interface(_DEVICE, f"2001:db8:fffe::{self._lines:x}", 128)] if has_v6 else [])

    @staticmethod
    def _member(place: _Place) -> list[Interface]:
        """The addresses of one more place behind a router."""
        place.members += 1
        prefixes: Sequence[Prefix] = [place.prefix, *([place.prefix_v6] if place.prefix_v6 else [])]
        return [Interface(_DEVICE, str(prefix[place.members]), prefix.prefixlen) for prefix in prefixes]

    def _add_host(self, spec: HostSpec) -> None:
        place = self._places.get(spec.behind or f"{spec.name}.router")
        addresses = self._member(place) if place else self._line_addresses(spec.ipv6 is Ipv6.OPEN)
        # Where the router is the host's own, the quality is that of the router's line.
        quality = spec.quality if spec.public or spec.behind else PERFECT
        host = self.hosts[spec.name] = Host(addresses, self._rng(spec.name))
        host.gateway = place.router if place else None
        network = place.router.inside if place else self.internet
        ips = [interface.ip for interface in addresses]
        host.line = network.attach(host, quality, ips, seed=f"{self._seed} {spec.name}")
        delays_ms = [quality.delay_ms, *(router.delay_ms for router in (place.chain if place else ()))]
        self.delays_s[spec.name] = sum(delays_ms) / 1000
