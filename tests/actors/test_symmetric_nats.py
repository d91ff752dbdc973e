"""Nodes behind symmetric NATs on the kernel: predicted where ports are sequential, guessed where they are random."""

import asyncio
import secrets
import statistics
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
import yaml

from warpfleet.actors import node
from warpfleet.actors.node import Node
from warpfleet.configs.topology import Topology
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.port_range import PortRange
from warpfleet.lab.laboratory import laboratory
from warpfleet.net.vantage import Vantage

pytestmark = [pytest.mark.lab, pytest.mark.timeout(60)]

BLOCK = PortRange(40_000, 41_023)
HOSTS = [
    {"name": "steady", "nat": "eim_random_ports", "delay_ms": 20},
    {"name": "random", "nat": "symmetric_random", "delay_ms": 20},
    {"name": "narrow", "nat": {"preset": "symmetric_random", "port_range": list(BLOCK)}, "delay_ms": 20},
    {"name": "rising", "nat": "symmetric_sequential", "delay_ms": 20},
    {"name": "falling", "nat": {"preset": "symmetric_sequential", "port_delta": -2}, "delay_ms": 20},
]
REPEATS = 9
AT_ONCE = 4  # connections of one pair, each of which opens mappings where the others predict theirs


@dataclass
class Site:
    """The namespaces and servers of a laboratory."""

    namespaces: dict[str, str]
    mqtt: list[str]
    stun: list[str]

    def node(
        self, identity: Identity, peer: PublicIdentity, telemetry: Path | None = None
    ) -> AbstractAsyncContextManager[Node]:
        """A node on the host of its name."""
        vantage = Vantage(netns=self.namespaces[identity.name])
        return Node.open(identity, peers=[peer], mqtt=self.mqtt, stun=self.stun, vantage=vantage, telemetry=telemetry)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    topology = Topology.model_validate({"version": 1, "name": "symmetric", "hosts": HOSTS})
    with laboratory(topology, name=f"wftest-{secrets.token_hex(2)}") as lab:
        services = yaml.safe_load(Path(lab.fleet_path).read_text(encoding="utf-8"))["services"]
        namespaces = {str(host["name"]): lab.netns(str(host["name"])) for host in HOSTS}
        yield Site(namespaces, services["mqtt"], services["stun"])


@pytest.fixture(autouse=True)
def _known_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is open once its NAT is known, however long that takes on a busy machine: what is pinned depends on it."""
    monkeypatch.setattr(node, "_PATIENCE_S", 5.0)


@pytest.mark.parametrize(
    ("initiator", "responder", "plugin"),
    [
        ("steady", "rising", "udp_punch"),
        ("falling", "steady", "udp_punch"),
        ("rising", "falling", "udp_punch"),
        ("steady", "random", "random_probe"),
        ("random", "steady", "random_probe"),
        ("steady", "narrow", "random_probe"),
        ("narrow", "steady", "random_probe"),
    ],
)
async def test_a_symmetric_nat_is_got_through(site: Site, initiator: str, responder: str, plugin: str) -> None:
    near, far = (Identity.generate(name, secrets.token_bytes(32)) for name in (initiator, responder))
    async with site.node(near, far.public) as here, site.node(far, near.public) as there, asyncio.timeout(15):
        pipes = await asyncio.gather(*(here.connect(responder, plugin_name=plugin) for _ in range(AT_ONCE)))
        for end in [await anext(there.accept()) for _ in pipes]:
            await end.send(b"hello")
        assert [await pipe.recv() for pipe in pipes] == [b"hello"] * AT_ONCE


async def test_a_block_of_ports_is_learned_and_guessed_with_few_packets(site: Site, tmp_path: Path) -> None:
    near, far = (Identity.generate(name, secrets.token_bytes(32)) for name in ("steady", "narrow"))
    async with (
        site.node(near, far.public, tmp_path / "near") as here,
        site.node(far, near.public, tmp_path / "far") as there,
        asyncio.timeout(30),
    ):
        learned = there.view.nat[4].port_range
        assert learned
        assert BLOCK.first <= learned.first < learned.last <= BLOCK.last
        assert learned.size > BLOCK.size / 2
        for _ in range(REPEATS):
            async with await here.connect("narrow", plugin_name="random_probe"):
                await (await anext(there.accept())).close()
    rows = [f"SELECT * FROM '{tmp_path}/{side}/attempts/*.parquet'" for side in ("near", "far")]
    sums = f"SELECT sum(packets_sent) FROM ({' UNION ALL '.join(rows)}) WHERE outcome = 'won' GROUP BY attempt_id"
    packets = [row[0] for row in duckdb.sql(sums).fetchall()]
    assert len(packets) == REPEATS
    assert statistics.median(packets) < 200
