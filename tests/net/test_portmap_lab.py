"""Port mapping inside the laboratory: a real daemon on each router, asked in each protocol, dialled from outside."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address

import pytest

from warpfleet.configs.topology import Topology
from warpfleet.core.endpoint import Endpoint, Scope, scope_of
from warpfleet.core.port_mapping import PortMapping
from warpfleet.lab import netns
from warpfleet.lab.laboratory import Lab, laboratory
from warpfleet.lab.nat_rules import LAN
from warpfleet.lab.plan import MAPPING_LINES
from warpfleet.net.interfaces import Listener
from warpfleet.net.network import KernelNetwork
from warpfleet.net.portmap import gateway
from warpfleet.net.portmap.client import GatewayClient, client_at
from warpfleet.net.portmap.mapping import GatewaySilent, Mapper
from warpfleet.net.portmap.udp import NatPmpMapper, PcpMapper
from warpfleet.net.portmap.upnp import UpnpMapper
from warpfleet.net.vantage import Vantage

pytestmark = pytest.mark.lab

PORT = 4444
LEASE_S = 8.0  # renewed after four
TRY_S = 0.5  # nothing in this laboratory is further than a millisecond


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One host behind a router of each protocol, three and two behind all of them, one behind none, and one behind two
    NATs. Two hosts have routers that no other test has used: this daemon takes no PCP pinhole back that was renewed."""
    one_each = [
        {"name": p.value, "nat": {"preset": "port_restricted", "port_mapping": [p.value]}, "ipv6": "firewalled"}
        for p in PortMapping
    ]
    every = {"preset": "symmetric_random", "port_mapping": [p.value for p in PortMapping]}
    hosts = [
        *one_each,
        *({"name": name, "nat": every, "ipv6": "firewalled"} for name in ("every", "moving", "advertised")),
        {"name": "one", "behind": "shared"},
        {"name": "two", "behind": "shared"},
        {"name": "none", "nat": "port_restricted"},
        {"name": "double", "behind": "customer"},
        {"name": "outside", "nat": "public", "ipv6": "open"},
    ]
    routers = [
        {"name": "shared", "nat": every},
        {"name": "carrier", "nat": "port_restricted"},
        {
            "name": "customer",
            "nat": {"preset": "port_restricted", "port_mapping": ["pcp", "upnp"]},
            "behind": "carrier",
        },
    ]
    topology = Topology.model_validate({"version": 1, "name": "portmap", "routers": routers, "hosts": hosts})
    with laboratory(topology) as made:
        yield made


@pytest.fixture
async def outside(lab: Lab) -> AsyncIterator[KernelNetwork]:
    """The network of a stranger on the internet."""
    network = KernelNetwork(Vantage(netns=lab.netns("outside")))
    yield network
    await network.close()


def mapper(vantage: Vantage, protocol: PortMapping, af: int = 4) -> Mapper:
    """A protocol, spoken to the gateway of a vantage."""
    found = gateway.find(vantage, af)
    assert found
    if protocol is PortMapping.PCP:
        return PcpMapper(vantage, found, lambda size: b"n" * size)
    return NatPmpMapper(vantage, found) if protocol is PortMapping.NATPMP else UpnpMapper(vantage, found, max)


def client_of(asked: Mapper, lifetime_s: float = 60.0) -> GatewayClient:
    """A client that speaks this protocol alone."""

    async def mappers() -> list[Mapper]:
        return [asked]

    return GatewayClient(mappers, lifetime_s=lifetime_s, chance=lambda: 0.0)


async def listening(vantage: Vantage, af: int = 4) -> Listener:
    """A listener on PORT."""
    return await KernelNetwork(vantage).listen_tcp(Endpoint("::" if af == 6 else "0.0.0.0", PORT))


async def reaches(network: KernelNetwork, remote: Endpoint) -> bool:
    """Whether a TCP connect comes through."""
    try:
        stream = await network.connect_tcp(remote, timeout_s=TRY_S)
    except TimeoutError:
        return False
    stream.close()
    return True


V4 = [(p, 4) for p in PortMapping]
PINHOLES = [(PortMapping.PCP, 6), (PortMapping.UPNP, 6)]


@pytest.mark.parametrize(("protocol", "af"), V4 + PINHOLES)
async def test_each_protocol_lets_strangers_in_until_the_lease_is_closed(
    lab: Lab, outside: KernelNetwork, protocol: PortMapping, af: int
) -> None:
    vantage = Vantage(netns=lab.netns(protocol.value))
    asked = mapper(vantage, protocol, af)
    listener = await listening(vantage, af)
    client = client_of(asked)
    external = await client.lease(PORT).changed()
    assert external
    assert await reaches(outside, external)
    await client.close()
    assert not await reaches(outside, external)
    listener.close()


async def stays_reachable(lab: Lab, outside: KernelNetwork, protocol: PortMapping, af: int) -> None:
    vantage = Vantage(netns=lab.netns(protocol.value))
    asked = mapper(vantage, protocol, af)
    listener = await listening(vantage, af)
    client = client_of(asked, lifetime_s=LEASE_S)
    external = await client.lease(PORT).changed()
    assert external
    granted_s = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < granted_s + LEASE_S + 2:  # the daemon clears what has run out by then
        assert await reaches(outside, external)
        await asyncio.sleep(0.5)
    await client.close()
    listener.close()


async def test_a_lease_is_renewed_before_it_runs_out(lab: Lab, outside: KernelNetwork) -> None:
    await asyncio.gather(*(stays_reachable(lab, outside, *each) for each in V4 + PINHOLES))


async def test_a_upnp_pinhole_follows_the_address_that_the_host_prefers(lab: Lab, outside: KernelNetwork) -> None:
    host = lab.netns("moving")
    asked = mapper(Vantage(netns=host), PortMapping.UPNP, 6)
    listener = await listening(Vantage(netns=host), 6)
    await asked.greet()
    former = (await asked.map(PORT, suggested=PORT, lifetime_s=60)).external
    following = str(ip_address(former.ip) + 0x100)
    netns.batch(
        [f"address change {former.ip}/64 dev eth0 preferred_lft 0", f"address add {following}/64 dev eth0"], host
    )
    external = (await asked.map(PORT, suggested=PORT, lifetime_s=60)).external
    assert external == Endpoint(following, PORT)
    assert await reaches(outside, external)
    await asked.unmap(PORT, external)
    assert not await reaches(outside, external)
    listener.close()


async def test_a_mapping_that_nobody_renews_runs_out(lab: Lab, outside: KernelNetwork) -> None:
    vantage = Vantage(netns=lab.netns("pcp"))
    listener = await listening(vantage)
    asked = mapper(vantage, PortMapping.PCP)
    external = (await asked.map(PORT, suggested=PORT, lifetime_s=2)).external
    assert await reaches(outside, external)
    async with asyncio.timeout(10):
        while await reaches(outside, external):
            pass
    listener.close()


async def test_a_vantage_finds_its_gateway_and_a_protocol_by_itself(lab: Lab, outside: KernelNetwork) -> None:
    vantage = Vantage(netns=lab.netns("every"))
    for af in (4, 6):
        listener = await listening(vantage, af)
        client = client_at(vantage, af)
        external = await client.lease(PORT).changed()
        assert external
        assert await reaches(outside, external)
        await client.close()
        listener.close()


@pytest.fixture
def advertised(lab: Lab) -> Iterator[Vantage]:
    """A host whose default route is as a router advertises it: by way of the router's link-local address."""
    host, router = lab.netns("advertised"), lab.netns("advertised.router")
    link_local = next(i.ip for i in Vantage(netns=router).interfaces() if i.name == LAN and i.ip.startswith("fe80:"))
    found = gateway.find(Vantage(netns=host), 6)
    assert found
    netns.batch([f"route replace default via {link_local} dev {found.device}"], host)
    yield Vantage(netns=host)
    netns.batch([f"route replace default via {found.ip} dev {found.device}"], host)


async def test_a_link_local_gateway_makes_a_pinhole_for_a_global_address(
    advertised: Vantage, outside: KernelNetwork
) -> None:
    found = gateway.find(advertised, 6)
    assert found
    assert scope_of(found.ip) is Scope.LINK_LOCAL
    listener = await listening(advertised, 6)
    client = client_at(advertised, 6)
    external = await client.lease(PORT).changed()
    assert external
    assert external.ip in {interface.ip for interface in advertised.interfaces()}
    assert await reaches(outside, external)
    await client.close()
    assert not await reaches(outside, external)
    listener.close()


@pytest.mark.parametrize("protocol", PortMapping)
async def test_the_external_port_of_another_host_is_not_taken_from_it(
    lab: Lab, outside: KernelNetwork, protocol: PortMapping
) -> None:
    listeners, granted, clients = [], [], []
    for host in ("one", "two"):
        vantage = Vantage(netns=lab.netns(host))
        listeners.append(await listening(vantage))
        clients.append(client_of(mapper(vantage, protocol)))
        granted.append(await clients[-1].lease(PORT).changed())
    assert granted[0]
    assert granted[1]
    assert granted[0].port == PORT != granted[1].port
    assert ip_address(granted[0].ip) in MAPPING_LINES
    assert await reaches(outside, granted[0])
    assert await reaches(outside, granted[1])
    for client, listener in zip(clients, listeners, strict=True):
        await client.close()
        listener.close()


@pytest.mark.parametrize("host", ["none", "double"])
async def test_where_nothing_can_be_mapped_that_is_soon_known(lab: Lab, host: str) -> None:
    client = client_at(Vantage(netns=lab.netns(host)), 4)
    lease = client.lease(PORT)
    async with asyncio.timeout(1.0):
        await lease.settled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await lease.changed()
    await client.close()


async def test_a_router_speaks_no_protocol_but_its_own(lab: Lab) -> None:
    for place in PortMapping:
        vantage = Vantage(netns=lab.netns(place.value))
        for protocol in set(PortMapping) - {place}:
            with pytest.raises(GatewaySilent):
                await mapper(vantage, protocol).greet()


def test_the_gateway_is_where_the_default_route_leads(lab: Lab) -> None:
    vantage = Vantage(netns=lab.netns("pcp"))
    assert gateway.find(vantage, 4) == gateway.Gateway("192.168.1.1", "eth0")
    six = gateway.find(vantage, 6)
    assert six
    assert six.ip.startswith("2001:db8:")
