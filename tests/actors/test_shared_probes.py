"""Probes that are shared: by nodes behind one exit, with a memory that may be wrong, slow or broken."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from warpfleet.actors import shared_probes
from warpfleet.actors.shared_probes import SharedProbes
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, NatSource, PortAssignment
from warpfleet.net.natprobe import NatReport
from warpfleet.net.network import KernelNetwork
from warpfleet.net.sockets import UdpSocket
from warpfleet.net.stunserver import StunServer
from warpfleet.net.vantage import Vantage

HOME = "127.0.0.1"
REALM = "test"
EXIT = Exit(REALM, 4, HOME)
NOW = 1_790_000_000.0
FULL, CHECK = NatSource.RFC5780, NatSource.OBSERVATORY
OPEN = NatBehaviour(  # loopback's own
    mapping=Mapping.EIM,
    filtering=Filtering.EIF,
    port_assignment=PortAssignment.PRESERVING,
    translated=False,
    udp=True,
)


@dataclass
class Memory:
    """Remembers in memory. `before` is awaited in both calls."""

    known: dict[Exit, KnownNat] = field(default_factory=dict)
    before: Callable[[], Awaitable[None]] | None = None
    recalled: list[Exit] = field(default_factory=list)
    remembered: list[KnownNat] = field(default_factory=list)

    async def recall(self, where: Exit) -> KnownNat | None:
        self.recalled.append(where)
        if self.before:
            await self.before()
        return self.known.get(where)

    async def remember(self, nats: Sequence[KnownNat]) -> None:
        if self.before:
            await self.before()
        self.remembered += nats


class Stuck(KernelNetwork):
    """A network whose second socket is never opened, or fails: a probe stops right after the first answer."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(Vantage(address=HOME))
        self.reached = asyncio.Event()
        self._error = error
        self._opened = 0

    async def open_udp(self, af: int, port: int = 0) -> UdpSocket:
        self._opened += 1
        if self._opened > 1:
            self.reached.set()
            if self._error:
                raise self._error
            await asyncio.Event().wait()
        return await super().open_udp(af, port)


@pytest.fixture
async def server() -> AsyncIterator[StunServer]:
    made = await StunServer.start()
    yield made
    await made.close()


async def run(probes: SharedProbes, server: StunServer, network: KernelNetwork | None = None) -> NatReport:
    network = network or KernelNetwork(Vantage(address=HOME))
    return await probes.probe(network, server.endpoints, realm=REALM, af=4)


async def test_nodes_behind_one_exit_share_one_probe_and_check_it(server: StunServer) -> None:
    memory = Memory()
    probes = SharedProbes(memory, lambda: NOW)
    reports = await asyncio.gather(*(run(probes, server) for _ in range(5)))
    assert sorted(report.source for report in reports) == [CHECK] * 4 + [FULL]
    assert {report.behaviour for report in reports} == {OPEN}
    assert {report.packets_sent for report in reports if report.source is CHECK} == {4}
    await probes.remember()
    assert memory.recalled == [EXIT], "asked once for the exit"
    assert memory.remembered == [KnownNat(EXIT, OPEN, NOW)]


async def test_a_later_node_of_the_opening_knows_at_once(server: StunServer) -> None:
    probes = SharedProbes(None, lambda: NOW)
    assert [(await run(probes, server)).source for _ in range(2)] == [FULL, CHECK]


async def test_what_is_remembered_spares_every_probe_and_is_not_renewed(server: StunServer) -> None:
    known = replace(OPEN, lifetime_s=120.0)
    memory = Memory({EXIT: KnownNat(EXIT, known, NOW - 60)})
    probes = SharedProbes(memory, lambda: NOW)
    reports = await asyncio.gather(*(run(probes, server) for _ in range(3)))
    assert {(report.source, report.behaviour) for report in reports} == {(CHECK, known)}
    await probes.remember()
    assert memory.remembered == [], "so that knowledge ages"


async def test_a_wrong_memory_is_replaced(server: StunServer) -> None:
    wrong = replace(OPEN, filtering=Filtering.APDF)
    memory = Memory({EXIT: KnownNat(EXIT, wrong, NOW - 60)})
    probes = SharedProbes(memory, lambda: NOW)
    reports = await asyncio.gather(*(run(probes, server) for _ in range(2)))
    assert sorted(report.source for report in reports) == [CHECK, FULL]
    await probes.remember()
    assert memory.remembered == [KnownNat(EXIT, OPEN, NOW)]


async def test_realms_share_nothing(server: StunServer) -> None:
    elsewhere = Exit("elsewhere", 4, HOME)
    memory = Memory({elsewhere: KnownNat(elsewhere, OPEN, NOW)})
    assert (await run(SharedProbes(memory, lambda: NOW), server)).source is FULL


async def hang() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise RuntimeError("the memory is gone")


@pytest.mark.parametrize("before", [hang, fail])
async def test_a_memory_that_hangs_or_fails_is_as_none(
    server: StunServer, before: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_probes, "_MEMORY_S", 0.05)
    probes = SharedProbes(Memory({EXIT: KnownNat(EXIT, OPEN, NOW)}, before), lambda: NOW)
    assert (await run(probes, server)).source is FULL
    await probes.remember()


async def test_a_prober_that_hangs_holds_the_others_up_until_their_deadline(
    server: StunServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_probes, "_SHARED_S", 0.05)
    probes, stuck = SharedProbes(None, lambda: NOW), Stuck()
    leader = asyncio.create_task(run(probes, server, stuck))
    await stuck.reached.wait()
    reports = await asyncio.gather(*(run(probes, server) for _ in range(2)))
    assert [report.source for report in reports] == [FULL, FULL]
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)


@pytest.mark.parametrize("how", ["raises", "is cancelled", "finds nothing out"])
async def test_a_prober_that_fails_lets_the_others_go_at_once(
    server: StunServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_probes, "_SHARED_S", 60)
    if how == "finds nothing out":
        monkeypatch.setattr(shared_probes, "_PROBE_S", 0.5)
    memory = Memory()
    probes, stuck = SharedProbes(memory, lambda: NOW), Stuck(OSError("full") if how == "raises" else None)
    leader = asyncio.create_task(run(probes, server, stuck))
    await stuck.reached.wait()
    monkeypatch.setattr(shared_probes, "_PROBE_S", 60)
    follower = asyncio.create_task(run(probes, server))
    if how == "is cancelled":
        leader.cancel()
    async with asyncio.timeout(5):
        assert (await follower).source is FULL
    await asyncio.gather(leader, return_exceptions=True)
    await probes.remember()
    assert memory.remembered == [KnownNat(EXIT, OPEN, NOW)]
