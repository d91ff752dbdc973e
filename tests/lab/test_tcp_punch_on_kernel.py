"""TCP punches through real NATs, with 20 ms between a host and the internet."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
import yaml

from warpfleet.actors.node import Node
from warpfleet.actors.surroundings import Surroundings
from warpfleet.configs.topology import Topology
from warpfleet.core.combo import RouteType, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.peer import AddressFamily
from warpfleet.lab.laboratory import Lab, laboratory
from warpfleet.lab.servers import V6
from warpfleet.net.interfaces import Pipe
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

REFUSING = {"preset": "port_restricted", "tcp_unsolicited": "rst"}
NATS: dict[str, Any] = {
    "public_firewalled": "public_firewalled",
    "full_cone": "full_cone",
    "addr_restricted": "addr_restricted",
    "port_restricted": "port_restricted",
    "eim_random_ports": "eim_random_ports",
    "sequential": "symmetric_sequential",
    "random": "symmetric_random",
    "refusing": REFUSING,
    "refusing_too": {**REFUSING, "preset": "eim_random_ports"},
}
# Without delay no two SYNs cross: only a filter that is opened beforehand lets the other through.
NEAR = {"near": REFUSING, "near_too": {**REFUSING, "preset": "eim_random_ports"}}
DUAL = {"six": "port_restricted", "six_too": "full_cone"}
DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def streets() -> Iterator[Lab]:
    """A host behind each NAT."""
    hosts = [{"name": name, "nat": nat, "delay_ms": 20} for name, nat in NATS.items()]
    hosts += [{"name": name, "nat": nat} for name, nat in NEAR.items()]
    hosts += [{"name": name, "nat": nat, "delay_ms": 20, "ipv6": "firewalled"} for name, nat in DUAL.items()]
    with laboratory(Topology.model_validate({"version": 1, "name": "tcp-punch", "hosts": hosts})) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(streets: Lab) -> AsyncIterator[dict[str, Node]]:
    """A node on each host; each trusts all."""
    services = yaml.safe_load(streets.fleet_path.read_text(encoding="utf-8"))["services"]
    names = [*NATS, *NEAR, *DUAL]
    identities = {name: Identity.generate(name, secrets.token_bytes(32)) for name in names}
    async with AsyncExitStack() as stack:
        opened = {}
        for name in names:
            opening = Node.open(
                identities[name],
                peers=[identity.public for other, identity in identities.items() if other != name],
                mqtt=services["mqtt"][:1],
                stun=services["stun"],
                ntp=services["ntp"],
                vantage=Vantage(netns=streets.netns(name)),
            )
            opened[name] = await stack.enter_async_context(opening)
        yield opened


async def punch(mine: Node, theirs: Node, af: AddressFamily = 4) -> None:
    """A pipe by this plugin alone, which carries bytes both ways."""
    pipe = await mine.connect(theirs.name, plugin_name="tcp_punch", route_type=RouteType.EXT, af=af)
    async with asyncio.timeout(DEADLINE_S):
        other = await anext(theirs.accept())
        assert (pipe.path.transport, pipe.path.relayed, pipe.peer, other.peer) == (
            Transport.TCP,
            False,
            theirs.name,
            mine.name,
        )
        async with pipe, other:
            await carries(pipe, other)


async def carries(pipe: Pipe, other: Pipe) -> None:
    for sender, receiver in ((pipe, other), (other, pipe)):
        await sender.send(b"hello")
        assert await receiver.recv() == b"hello"


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("public_firewalled", "port_restricted"),
        ("port_restricted", "public_firewalled"),
        ("full_cone", "addr_restricted"),
        ("addr_restricted", "port_restricted"),
        ("port_restricted", "eim_random_ports"),
        ("eim_random_ports", "full_cone"),
        ("refusing", "port_restricted"),
        ("eim_random_ports", "refusing"),
        ("port_restricted", "sequential"),
        ("sequential", "eim_random_ports"),
        ("random", "full_cone"),
        ("addr_restricted", "random"),
    ],
)
async def test_a_punch_gets_through(nodes: dict[str, Node], mine: str, theirs: str) -> None:
    await punch(nodes[mine], nodes[theirs])


async def test_routers_that_refuse_are_outwitted_where_no_syns_can_cross(nodes: dict[str, Node]) -> None:
    await punch(nodes["near"], nodes["near_too"])


@pytest.mark.parametrize("skew_s", [-2.0, 2.0])
@pytest.mark.parametrize("plugin", ["tcp_punch", "udp_punch"])
async def test_clocks_that_are_seconds_apart_end_no_punch(streets: Lab, plugin: str, skew_s: float) -> None:
    """Both routers refuse an early SYN, and no NTP server tells either end."""
    services = yaml.safe_load(streets.fleet_path.read_text(encoding="utf-8"))["services"]
    near, far = (Identity.generate(name, secrets.token_bytes(32)) for name in ("refusing", "refusing_too"))
    opening = {"mqtt": services["mqtt"][:1], "stun": services["stun"]}
    skewed = Surroundings(now_s=lambda: time.time() + skew_s)
    async with (
        Node.open(
            near, peers=[far.public], vantage=Vantage(netns=streets.netns(near.name)), surroundings=skewed, **opening
        ) as mine,
        Node.open(far, peers=[near.public], vantage=Vantage(netns=streets.netns(far.name)), **opening) as theirs,
    ):
        for one, other in ((mine, theirs), (theirs, mine)):
            pipe = await one.connect(other.name, plugin_name=plugin, route_type=RouteType.EXT)
            async with asyncio.timeout(DEADLINE_S), pipe, await anext(other.accept()) as end:
                await carries(pipe, end)


async def test_two_stateful_firewalls_of_ipv6_are_punched(nodes: dict[str, Node]) -> None:
    await punch(nodes["six"], nodes["six_too"], af=6)


@pytest.mark.parametrize(("family", "ip"), [(4, next(iter(V6))), (6, next(iter(V6.values())))])
async def test_a_first_syn_that_dies_early_does_not_end_the_connect(streets: Lab, family: int, ip: str) -> None:
    """The router says that the SYN got no further; the next one, after a second, gets through."""
    server = KernelNetwork(Vantage(netns=streets.netns("core")))
    host = KernelNetwork(Vantage(netns=streets.netns("six")))
    listener = await server.listen_tcp(Endpoint(ip, 0))
    with pytest.raises(TimeoutError):
        await host.connect_tcp(listener.local, timeout_s=0.5, hop_limit=1)
    stream = await host.connect_tcp(listener.local, timeout_s=DEADLINE_S, hop_limit=1)
    assert (await listener.accept()).local == stream.remote
    stream.close()
    listener.close()
