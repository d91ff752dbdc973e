"""What an attempt says it has sent, held against what the interface of its host has seen."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from warpfleet.actors.node import Node
from warpfleet.configs.topology import Topology
from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.targets import USUAL_ALLOWANCE
from warpfleet.lab import netns
from warpfleet.lab.laboratory import Lab, laboratory
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.guard import GuardedNetwork, SharedBudget

pytestmark = pytest.mark.lab

DEADLINE_S = 5.0
MESSAGES = 5


class Host:
    """A public host of the laboratory, an attempt on it, and what its interface has sent meanwhile."""

    def __init__(self, lab: Lab, place: str) -> None:
        self._namespace = lab.netns(place)
        kernel = KernelNetwork(Vantage(netns=self._namespace))
        self.ip = next(interface.ip for interface in kernel.interfaces() if interface.name == "eth0")
        budget = SharedBudget(USUAL_ALLOWANCE)
        self.network = GuardedNetwork(kernel, [RouteType.EXT], "127.0.0.2", budget, lambda _ip: budget)
        self._before = self._wire()

    def counted_and_seen(self) -> tuple[int | None, int]:
        """Both counts of one moment: nothing went out while they were read."""
        while True:
            before, counted, after = self._wire(), self.network.packets_sent, self._wire()
            if before == after:
                return counted, after - self._before

    def _wire(self) -> int:
        with netns.inside(self._namespace), open("/proc/thread-self/net/dev", encoding="ascii") as devices:
            line = next(line for line in devices if line.strip().startswith("eth0:"))
        return int(line.split()[10])


@pytest.fixture(scope="module")
def quiet() -> Iterator[Lab]:
    """Hosts of its own for each test: the last ACK of one must not be seen by the next."""
    hosts = [{"name": name, "nat": "public", "delay_ms": 10} for name in ("a", "b", "c", "d", "e")]
    with laboratory(Topology.model_validate({"version": 1, "name": "packet-counts", "hosts": hosts})) as made:
        yield made


async def test_datagrams_are_counted_exactly(quiet: Lab) -> None:
    one, two = Host(quiet, "a"), Host(quiet, "b")
    near, far = await one.network.open_udp(4), await two.network.open_udp(4)
    for _ in range(MESSAGES):
        near.send_to(b"ping", Endpoint(two.ip, far.local.port))
        await asyncio.wait_for(far.receive(), DEADLINE_S)
    far.send_to(b"pong", Endpoint(one.ip, near.local.port))
    await asyncio.wait_for(near.receive(), DEADLINE_S)
    near.close()
    far.close()
    assert one.counted_and_seen() == (MESSAGES, MESSAGES)
    assert two.counted_and_seen() == (1, 1)


async def test_segments_are_counted_exactly_until_the_farewell(quiet: Lab) -> None:
    one, two = Host(quiet, "c"), Host(quiet, "d")
    listener = await two.network.listen_tcp(Endpoint("0.0.0.0", 0))
    near = await one.network.connect_tcp(Endpoint(two.ip, listener.local.port), timeout_s=DEADLINE_S)
    far = await listener.accept()
    for _ in range(MESSAGES):
        await near.write(b"ping")
        await far.read_exactly(4)
        await far.write(b"pong")
        await near.read_exactly(4)
    counted, seen = one.counted_and_seen()
    assert counted == seen >= 2 + MESSAGES
    counted, seen = two.counted_and_seen()
    assert counted == seen - 1 >= MESSAGES, "the SYN-ACK was the listener's"
    for stream in (near, far):
        before = stream.packets_sent
        stream.close()
        assert stream.packets_sent == before
    listener.close()


async def test_a_connect_in_vain_is_counted(quiet: Lab) -> None:
    one = Host(quiet, "e")
    with pytest.raises(TimeoutError):
        await one.network.connect_tcp(Endpoint("198.18.255.254", 9), timeout_s=0.1)
    assert one.counted_and_seen() == (1, 1)


BROKER, TIME = "203.0.113.10", "203.0.113.30"
GATEWAYS = "192.168.0.0/16, 239.0.0.0/8"  # the router in front of a home, and whoever answers there to UPnP
COUNTER = f"""table inet warpfleet_test {{
    counter sent {{ }}
    chain out {{
        type filter hook output priority 0;
        oifname "eth0" ip daddr != {{ {BROKER}, {TIME}, {GATEWAYS} }} meta l4proto udp counter name sent
        oifname "eth0" ip daddr != {{ {BROKER}, {TIME} }} meta l4proto tcp counter name sent
    }}
}}"""
PUNCHES = {
    "udp_punch": ("port_restricted", "eim_random_ports"),
    "tcp_punch": ("eim_random_ports", "port_restricted"),
    "random_probe": ("port_restricted", "symmetric_random"),
}
# The last acknowledgement, or the answer to a frame that comes again, may leave after the attempt has ended. A TCP
# punch closes two streams: one to a STUN server.
LATER_PACKETS = {"udp_punch": 1, "tcp_punch": 2, "random_probe": 1}
STANDING_S = 10.0


@pytest.fixture(scope="module")
def punching() -> Iterator[Lab]:
    """A host behind each NAT, which counts the packets that leave it, but for those of the node: to the broker, to NTP
    servers, to a gateway that might map ports. What keeps a standing socket is not looked at: it goes out when a node
    opens, and every 7 s. ICMP is the kernel's."""
    names = sorted({name for pair in PUNCHES.values() for name in pair})
    hosts = [{"name": name, "nat": name, "delay_ms": 20} for name in names]
    with laboratory(Topology.model_validate({"version": 1, "name": "punch-counts", "hosts": hosts})) as made:
        for name in names:
            with netns.inside(made.netns(name)):
                netns.run(["nft", "-f", "-"], COUNTER)
        yield made


def taken(lab: Lab, name: str) -> int:
    """How many packets have left a host since this was last asked."""
    with netns.inside(lab.netns(name)):
        listed = json.loads(netns.run(["nft", "-j", "reset", "counters", "table", "inet", "warpfleet_test"]))
    return sum(int(entry["counter"]["packets"]) for entry in listed["nftables"] if "counter" in entry)


async def stands(node: Node) -> None:
    """Return once a node's standing sockets are known."""
    while set(node.view.standing.get("udp_punch", {})) != set(node.view.external):  # noqa: ASYNC110 - no news of it
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("plugin", "names"), [(plugin, names) for plugin, pair in PUNCHES.items() for names in (pair, pair[::-1])]
)
async def test_what_a_punch_says_it_has_sent_is_what_has_left_the_host(
    punching: Lab, tmp_path: Path, plugin: str, names: tuple[str, str]
) -> None:
    services = yaml.safe_load(punching.fleet_path.read_text(encoding="utf-8"))["services"]
    near, far = (Identity.generate(name, secrets.token_bytes(32)) for name in names)
    opening = {"mqtt": services["mqtt"][:1], "stun": services["stun"]}
    vantages = [Vantage(netns=punching.netns(name)) for name in names]
    async with (
        Node.open(near, peers=[far.public], vantage=vantages[0], telemetry=tmp_path, **opening) as here,
        Node.open(far, peers=[near.public], vantage=vantages[1], **opening) as there,
    ):
        async with asyncio.timeout(STANDING_S):
            await asyncio.gather(*(stands(node) for node in (here, there) if "symmetric" not in node.name))
        taken(punching, near.name)
        pipe = await here.connect(far.name, plugin_name=plugin, route_type=RouteType.EXT, af=4)
        await asyncio.wait_for(anext(there.accept()), DEADLINE_S)
        await asyncio.wait_for(pipe.agreed(), DEADLINE_S)
        seen = taken(punching, near.name)
    counted = duckdb.execute(
        "select sum(packets_sent) from read_parquet(?)", [f"{tmp_path}/attempts/*.parquet"]
    ).fetchall()
    assert 0 <= seen - int(counted[0][0]) <= LATER_PACKETS[plugin]
