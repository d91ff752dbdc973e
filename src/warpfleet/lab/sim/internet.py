"""The internet, and the networks behind routers: who is attached to them, and how packets get from one to another."""

import asyncio
import random
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from warpfleet.configs.line import LineQuality
from warpfleet.configs.topology import Ipv6, RouterSpec, TcpAnswer
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering
from warpfleet.core.port_mapping import PortMapping
from warpfleet.lab.sim.nat import Drop, Nat
from warpfleet.lab.sim.packet import Packet, Segment, reset_for

# A line carries one packet after another: no two arrive at one host at one instant, so that what a program does
# never depends on the order in which it looks at them.
_PACKET_S = 1e-6

Prefix = IPv4Network | IPv6Network


class Station(Protocol):
    """What is attached to a network: a host, or a router's outside."""

    def arrive(self, packet: Packet) -> None:
        """Take a packet that has come down the line."""


class Line:
    """The line between a station and a network. Chance is drawn from `seed` for each flow apart, so that it does not
    hang on which of two flows a program serves first."""

    def __init__(self, station: Station, network: "Network", quality: LineQuality, seed: str) -> None:
        self._quality = quality
        self._seed = seed
        self._chances: dict[str, random.Random] = {}
        self._station = station
        self._network = network
        self._up_free_s = self._down_free_s = 0.0  # when either direction takes the next packet

    def up(self, packet: Packet) -> None:
        """Send a packet into the network."""
        self._up_free_s = max(asyncio.get_running_loop().time(), self._up_free_s) + _PACKET_S
        self._carry(packet, self._up_free_s, self._network.carry)

    def down(self, packet: Packet) -> None:
        """Send a packet from the network to the station."""
        self._down_free_s = max(asyncio.get_running_loop().time(), self._down_free_s) + _PACKET_S
        self._carry(packet, self._down_free_s, self._station.arrive)

    def _carry(self, packet: Packet, leaves_s: float, arrive: Callable[[Packet], None]) -> None:
        arrives_s = leaves_s + self._quality.delay_ms / 1000
        if self._quality.loss or self._quality.jitter_ms:
            chance = self._chance(packet)
            lost, late = chance.random() < self._quality.loss, chance.random()
            if lost:
                return
            arrives_s += late * self._quality.jitter_ms / 1000
        asyncio.get_running_loop().call_at(arrives_s, arrive, packet)

    def _chance(self, packet: Packet) -> random.Random:
        flow = f"{self._seed} {packet.transport} {packet.source} {packet.destination}"
        if flow not in self._chances:
            self._chances[flow] = random.Random(flow)
        return self._chances[flow]


class Network:
    """Stations by their addresses. What is for nobody here leaves by `way_out`, or is lost where there is none."""

    def __init__(self) -> None:
        self.way_out: Router | None = None
        self._lines: dict[str, Line] = {}
        self._routes: list[tuple[Prefix, Line]] = []

    def attach(
        self,
        station: Station,
        quality: LineQuality,
        addresses: Sequence[str],
        prefixes: Sequence[Prefix] = (),
        *,
        seed: str,
    ) -> Line:
        """Attach a station that has these addresses, and that these prefixes lie behind."""
        line = Line(station, self, quality, seed)
        self._lines.update(dict.fromkeys(addresses, line))
        for prefix in prefixes:
            self.route(prefix, line)
        return line

    def route(self, prefix: Prefix, line: Line) -> None:
        """Let a line lead to a prefix."""
        self._routes.append((prefix, line))

    def carry(self, packet: Packet) -> None:
        """Take a packet to where it belongs."""
        ip = packet.destination.ip
        line = self._lines.get(ip)
        if line is None and self._routes:
            line = next((line for prefix, line in self._routes if ip_address(ip) in prefix), None)
        if line:
            line.down(packet)
        elif self.way_out:
            self.way_out.leave(packet)


class Internet(Network):
    """The network that every router leads to, itself one router. What passes between two addresses of `cut` is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: set[frozenset[str]] = set()

    def carry(self, packet: Packet) -> None:
        """Take a packet to where it belongs."""
        if frozenset((packet.source.ip, packet.destination.ip)) in self.cut:
            return
        if forwarded := packet.forwarded():
            super().carry(forwarded)


class Router:
    """A router: a NAT for IPv4 and a firewall for IPv6 between the network behind it (`inside`) and the one before it.

    Its addresses are external ones; `line` leads outwards, and is there once the router is attached.
    """

    line: Line

    def __init__(self, spec: RouterSpec, external_ip: str, rng: random.Random) -> None:
        self.inside = Network()
        self.inside.way_out = self
        self._external_ip = external_ip
        self._resets = spec.nat.tcp_unsolicited is TcpAnswer.RST
        # RFC 6092: IPv6 is not translated, and its simple security is a stateful firewall's.
        filtering = Filtering.EIF if spec.ipv6 is Ipv6.OPEN else Filtering.APDF
        firewall = spec.nat.model_copy(update={"translated": False, "filtering": filtering})
        self._nats = {4: Nat(spec.nat, external_ip, rng), 6: Nat(firewall, external_ip, rng)}

    @property
    def port_mapping(self) -> tuple[PortMapping, ...]:
        """The protocols in which hosts behind it may have ports mapped."""
        return self._nats[4].spec.port_mapping

    def open_port(self, internal: Endpoint, suggested: int, lifetime_s: float) -> Endpoint | None:
        """Let strangers in to a TCP port of a host behind it, as `Nat.open_port` has it."""
        return self._nats[internal.af].open_port(internal, suggested, lifetime_s, asyncio.get_running_loop().time())

    def leave(self, packet: Packet) -> None:
        """Take a packet from behind that is for somebody elsewhere."""
        forwarded = packet.forwarded()
        if forwarded is None:
            return
        nat, now_s = self._nats[packet.source.af], asyncio.get_running_loop().time()
        if packet.destination.ip == self._external_ip and nat.spec.translated:
            turned = nat.hairpin(forwarded, now_s)
            if isinstance(turned, Packet):
                self.inside.carry(turned)
            return
        translated = nat.outbound(forwarded, now_s)
        if isinstance(translated, Packet):
            self.line.up(translated)

    def arrive(self, packet: Packet) -> None:
        """Take a packet from outside."""
        nat, now_s = self._nats[packet.source.af], asyncio.get_running_loop().time()
        translated = nat.inbound(packet, now_s)
        if isinstance(translated, Packet):
            if forwarded := translated.forwarded():
                self.inside.carry(forwarded)
        elif self._resets and _unsolicited(packet, translated):
            assert isinstance(packet.payload, Segment)
            self.line.up(reset_for(packet, packet.payload))


def _unsolicited(packet: Packet, drop: Drop) -> bool:
    asks = isinstance(packet.payload, Segment) and packet.payload.opens
    return asks and drop in (Drop.UNMAPPED, Drop.FILTERED)
