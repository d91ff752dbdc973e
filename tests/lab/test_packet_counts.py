"""What an attempt says it has sent, held against what the interface of its host has seen."""

import asyncio
from collections.abc import Iterator

import pytest

from warpfleet.configs.topology import Topology
from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.lab import netns
from warpfleet.lab.laboratory import Lab, laboratory
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.guard import GuardedNetwork

pytestmark = pytest.mark.lab

DEADLINE_S = 5.0
MESSAGES = 5


class Host:
    """A public host of the laboratory, an attempt on it, and what its interface has sent meanwhile."""

    def __init__(self, lab: Lab, place: str) -> None:
        self._namespace = lab.netns(place)
        kernel = KernelNetwork(Vantage(netns=self._namespace))
        self.ip = next(interface.ip for interface in kernel.interfaces() if interface.name == "eth0")
        self.network = GuardedNetwork(kernel, [RouteType.EXT], "127.0.0.2")
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
