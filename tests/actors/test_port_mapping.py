"""Nodes behind routers that map ports, on the kernel: reached directly, published anew as mappings come and go."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from warpfleet.actors.node import Node
from warpfleet.configs.topology import Topology
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.lab import netns
from warpfleet.lab.laboratory import Lab, laboratory
from warpfleet.net.vantage import Vantage

pytestmark = [pytest.mark.lab, pytest.mark.timeout(60)]

MAPS = {"preset": "symmetric_random", "port_mapping": ["pcp", "upnp"]}
HOSTS = [
    {"name": "home", "nat": MAPS, "delay_ms": 20},
    {"name": "away", "nat": "port_restricted", "delay_ms": 20},
]


@dataclass
class Site:
    """The hosts and servers of a laboratory."""

    lab: Lab
    mqtt: list[str]
    stun: list[str]

    def node(self, identity: Identity, peer: PublicIdentity) -> AbstractAsyncContextManager[Node]:
        """A node on the host of its name."""
        vantage = Vantage(netns=self.lab.netns(identity.name))
        return Node.open(identity, peers=[peer], mqtt=self.mqtt, stun=self.stun, vantage=vantage)

    def rules(self) -> str:
        """What the router of `home` lets in to it."""
        with netns.inside(self.lab.netns("home.router")):
            return netns.run(["nft", "list", "chain", "inet", "warpfleet", "mapped_in"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    topology = Topology.model_validate({"version": 1, "name": "mapping", "hosts": HOSTS})
    with laboratory(topology, name=f"wftest-{secrets.token_hex(2)}") as lab:
        services = yaml.safe_load(Path(lab.fleet_path).read_text(encoding="utf-8"))["services"]
        yield Site(lab, services["mqtt"], services["stun"])


async def mapped(node: Node) -> Endpoint:
    """Where strangers reach the node, once that is so."""
    async with asyncio.timeout(5):
        while not node.view.mapped:  # noqa: ASYNC110 - a view is a value: nobody tells of a new one
            await asyncio.sleep(0.01)
    return node.view.mapped[0]


async def test_a_node_behind_it_is_reached_directly_and_its_port_closed_in_the_end(site: Site) -> None:
    home, away = (Identity.generate(name, secrets.token_bytes(32)) for name in ("home", "away"))
    async with site.node(home, away.public) as far, site.node(away, home.public) as near:
        external = await mapped(far)
        assert f"dport {external.port}" in site.rules()
        pipe = await near.connect("home", timeout_s=10)
        other = await anext(far.accept())
        await pipe.send(b"hello")
        assert await other.recv() == b"hello"
        assert pipe.path.remote == external
    assert "dport" not in site.rules()


async def test_the_node_behind_it_may_have_itself_dialled(site: Site) -> None:
    home, away = (Identity.generate(name, secrets.token_bytes(32)) for name in ("home", "away"))
    async with site.node(home, away.public) as far, site.node(away, home.public):
        external = await mapped(far)
        pipe = await far.connect("away", plugin_name="reverse_connect", timeout_s=10)
        assert pipe.path.local.port == next(e.port for e in far.view.listeners if e.ip == "0.0.0.0")
        assert external in far.view.mapped
