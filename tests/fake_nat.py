"""A host behind a NAT of its own in the network in memory: it admits only whom a socket has sent to (APDF), unless told
otherwise."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace

from fake_network import STUN_SERVER, FakeNetwork, FakeUdp, Internet
from fake_node import FakeNode, node
from warpfleet.configs.topology import PRESETS, NatSpec
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.nat import Filtering, Mapping
from warpfleet.core.port_range import WHOLE, PortRange

EXTERNAL = {"alice": "203.0.113.1", "bob": "203.0.113.2"}


class NattedUdp(FakeUdp):
    """A datagram socket behind a NAT. `mappings` has its external endpoint for each destination."""

    def __init__(self, network: "NattedNetwork", local: Endpoint) -> None:
        super().__init__(network.internet, local)
        self.network = network
        self.mappings: dict[Endpoint, Endpoint] = {}

    def source_towards(self, remote: Endpoint) -> Endpoint:
        if remote not in self.mappings:
            others = next(iter(self.mappings.values()), None) if self.network.independent else None
            self.mappings[remote] = others or Endpoint(self.network.external_ip, next(self.network.ports))
        return self.mappings[remote]

    def hears(self, source: Endpoint, target: Endpoint) -> bool:
        let_in = {
            Filtering.EIF: lambda _remote: True,
            Filtering.ADF: lambda remote: remote.ip == source.ip,
            Filtering.APDF: source.__eq__,
        }[self.network.filtering]
        return not self.closed and any(mapped == target and let_in(remote) for remote, mapped in self.mappings.items())


class NattedNetwork(FakeNetwork):
    """One host's network. `ports` are those of its NAT's next mappings, `independent` is whether a socket has one
    mapping for all destinations. Others behind it open so many mappings before a STUN server is asked, and after."""

    def __init__(
        self,
        internet: Internet,
        external_ip: str,
        ports: Iterator[int],
        *,
        independent: bool,
        filtering: Filtering = Filtering.APDF,
    ) -> None:
        super().__init__(internet, "192.168.1.2")
        self.filtering = filtering
        self.external_ip, self.ports, self.independent = external_ip, ports, independent
        self.others_before = self.others_after = 0

    async def open_udp(self, af: int, port: int = 0) -> NattedUdp:
        assert af == 4
        return NattedUdp(self, Endpoint(self.ip, port or self._next_port()))

    async def external_endpoint(self, socket: FakeUdp, *, timeout_s: float) -> Endpoint:
        await asyncio.sleep(0)  # other attempts have their turn before the request goes out
        for _ in range(self.others_before):
            next(self.ports)
        socket.source_towards(STUN_SERVER)
        for _ in range(self.others_after):
            next(self.ports)
        return await super().external_endpoint(socket, timeout_s=timeout_s)


def sequence(first: int, delta: int = 1) -> Iterator[int]:
    """The ports of a sequential allocator, which keeps out of the well-known ones."""
    port = first
    while True:
        yield port
        port += delta
        if port > 65535:
            port -= 64512
        elif port < 1024:
            port += 64512


def drawn(rng: random.Random, block: PortRange = WHOLE) -> Iterator[int]:
    """The ports of a random allocator."""
    while True:
        yield rng.randint(*block)


def natted(
    identity: Identity, internet: Internet, preset: str = "eim_random_ports", ports: Iterator[int] | None = None
) -> FakeNode:
    """A node behind a NAT that hands out these ports; left out: from 50,000 on."""
    made = node(identity, internet, EXTERNAL[identity.name])
    nat = PRESETS[preset] or NatSpec(translated=False, filtering=Filtering.EIF)
    made.network = NattedNetwork(
        internet,
        EXTERNAL[identity.name],
        ports or sequence(50_000),
        independent=nat.mapping is Mapping.EIM,
        filtering=nat.filtering,
    )
    made.view = replace(made.view, nat={4: nat.behaviour})
    return made
