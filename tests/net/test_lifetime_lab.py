"""How long idle mappings live, on the kernel's NATs."""

import asyncio

import pytest

from warpfleet.configs.topology import HostSpec, NatSpec, Topology
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.lab.laboratory import laboratory
from warpfleet.net.lifetime import mapping_lifetime_s
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage

pytestmark = pytest.mark.lab

LIFETIME_S = 4
HOSTS = {
    "cone": NatSpec(udp_lifetime_s=LIFETIME_S),
    "symmetric": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM, udp_lifetime_s=LIFETIME_S),
    "firewalled": NatSpec(translated=False, filtering=Filtering.APDF, udp_lifetime_s=LIFETIME_S),
    "lasting": NatSpec(),
    "blocked": NatSpec(udp_blocked=True, tcp_out_ports=(443,)),
}


async def test_the_longest_idle_time_that_a_mapping_survives_is_found() -> None:
    topology = Topology(version=1, name="lifetimes", hosts=tuple(HostSpec(name=n, nat=s) for n, s in HOSTS.items()))
    with laboratory(topology, name="wftest-lifetimes") as lab:
        networks = {name: KernelNetwork(Vantage(netns=lab.netns(name))) for name in HOSTS}
        server = Endpoint("203.0.113.20", 3478)
        measuring = (mapping_lifetime_s(network, server, ladder_s=(1.0, 8.0)) for network in networks.values())
        found = dict(zip(HOSTS, await asyncio.gather(*measuring), strict=True))
    assert found == {"cone": 1.0, "symmetric": 1.0, "firewalled": 1.0, "lasting": 8.0, "blocked": None}
