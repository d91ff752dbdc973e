"""What a signal host reports of its nodes' NATs; real broker, real STUN server, on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from warpfleet.actors import shared_probes
from warpfleet.actors.coordinator import RecordView
from warpfleet.actors.signal_host import SignalHost, SignalPorts, view_of
from warpfleet.actors.values import NodeSpec, StandingPorts
from warpfleet.configs.fleet import Broker
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.identity import Identity
from warpfleet.core.nat import NatSource
from warpfleet.core.peer import PeerView
from warpfleet.net import natprobe, stun
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.sockets import UdpSocket
from warpfleet.net.stunserver import StunServer
from warpfleet.net.vantage import Vantage
from warpfleet.signal.broker import EmbeddedBroker
from warpfleet.signal.record import AddressRecord, ListenerAddress, SignedRecord

HOME = "127.0.0.1"


@dataclass
class Memory:
    """Knows nothing, and keeps what it is told."""

    recalled: list[Exit] = field(default_factory=list)
    remembered: list[KnownNat] = field(default_factory=list)

    async def recall(self, where: Exit) -> None:
        self.recalled.append(where)

    async def remember(self, nats: Sequence[KnownNat]) -> None:
        self.remembered += nats


@pytest.fixture
async def specs() -> AsyncIterator[list[NodeSpec]]:
    server = await StunServer.start()
    async with EmbeddedBroker() as broker:
        yield [
            NodeSpec(
                identity=Identity.from_seed(name, name.encode().ljust(32, b".")),
                vantage=Vantage(address=HOME),
                listen=(0,),
                brokers=(Broker.model_validate(broker.url),),
                stun=server.endpoints,
                turn=(),
                ntp=(),
                realm="test",
            )
            for name in ("alice", "bob", "carol")
        ]
    await server.close()


async def test_nodes_that_start_together_share_a_probe_and_its_result_is_remembered(specs: list[NodeSpec]) -> None:
    async def learn(_: dict[str, RecordView]) -> None:
        """Nobody plans connections here."""

    host, memory = SignalHost(), Memory()
    host.bind(SignalPorts(deliver={}, learn=learn, memory=memory))
    try:
        reports = await host.open_nodes(specs, {}, [spec.identity.public for spec in specs])
    finally:
        await host.close()
    found = [report.nats[4] for report in reports]
    assert sorted(one.source for one in found) == [NatSource.OBSERVATORY] * 2 + [NatSource.RFC5780]
    assert all(one.packets_sent for one in found)
    assert [report.view.external for report in reports] == [{4: HOME}] * 3
    assert {report.view.behaviour(4) for report in reports} == {found[0].behaviour}
    assert memory.recalled == [Exit("test", 4, HOME)]
    assert [(nat.exit, nat.behaviour) for nat in memory.remembered] == [(Exit("test", 4, HOME), found[0].behaviour)]


async def answer_haltingly(server: UdpSocket, go_on: asyncio.Event) -> None:
    """A STUN server that answers the first request at once, and the others when it is told to."""
    with contextlib.suppress(ConnectionLost):
        while True:
            data, source = await server.receive()
            request = stun.parse(data)
            assert request
            response = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
            response.attributes["XOR-MAPPED-ADDRESS"] = source
            server.send_to(bytes(response), source)
            await go_on.wait()


async def test_a_node_is_open_once_its_address_is_known_and_the_rest_is_told_when_it_is(
    specs: list[NodeSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the rest of the NAT tests is waited for nor an NTP server that is silent."""
    monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 60.0)  # the tests end because they are answered, or not at all
    monkeypatch.setattr(shared_probes, "_PROBE_S", 60.0)
    told: asyncio.Queue[PeerView] = asyncio.Queue()

    async def learn(records: dict[str, RecordView]) -> None:
        """The record that comes back from the broker says the same."""

    async def take(views: dict[str, PeerView], _clock_offset_s: float) -> None:
        told.put_nowait(views["alice"])

    host, go_on = SignalHost(), asyncio.Event()
    host.bind(SignalPorts(deliver={}, learn=learn, take_views={"udp_punch": take}))
    server = UdpSocket(Vantage(address=HOME).open(4, socket.SOCK_DGRAM))
    answering = asyncio.create_task(answer_haltingly(server, go_on))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOME, 0))
        ntp = f"{HOME}:{silent.getsockname()[1]}"
        alice = replace(specs[0], stun=(server.local,), ntp=(ntp,))
        try:
            [report] = await host.open_nodes([alice], {}, [], patience_s=0)
            assert (report.view.external, report.view.nat, report.clock) == ({4: HOME}, {}, None)
            early = await host.own_record("alice")
            assert told.empty()
            go_on.set()
            async with asyncio.timeout(5):
                assert (await told.get()).nat[4].udp
            assert await host.own_record("alice") != early
        finally:
            go_on.set()
            await host.close()
            server.close()
            await answering


async def test_a_mapping_is_published_and_told_to_whoever_plans_and_runs_attempts(specs: list[NodeSpec]) -> None:
    known: list[PeerView] = []
    taken: list[PeerView] = []

    async def learn(records: dict[str, RecordView]) -> None:
        known.extend(record.view for record in records.values())

    async def take(views: dict[str, PeerView], _clock_offset_s: float) -> None:
        taken.extend(views.values())

    async def died(_views: dict[str, PeerView], _clock_offset_s: float) -> None:
        raise ConnectionError("it is being replaced")

    external, stranger = Endpoint(HOME, 5555), Endpoint("203.0.113.9", 5555)
    host, [alice, *_] = SignalHost(), specs
    host.bind(SignalPorts(deliver={}, learn=learn, take_views={"dead": died, "direct_connect": take}))
    try:
        await host.remap([("alice", (external,))])  # sooner than the node is open
        [report] = await host.open_nodes([alice], {"alice": [Endpoint("0.0.0.0", 443)]}, [alice.identity.public])
        assert report.view.mapped == (external,)
        signed = await host.own_record("alice")
        record = SignedRecord.decode(signed).verify(alice.identity.public)
        assert {(e.port, e.external) for e in record.listeners} == {(443, False), (5555, True)}
        assert view_of(record).mapped == (external,)
        assert view_of(record).listeners == (Endpoint("0.0.0.0", 443),)

        known.clear()
        await host.remap([("alice", (stranger,))])
        assert [view.mapped for view in (known[0], taken[0])] == [(), ()], "none of others is published"
        [report] = await host.reports()
        assert report.view.mapped == ()
        assert await host.own_record("alice") != signed

        again = await host.own_record("alice")
        await host.remap([("alice", ())])
        assert await host.own_record("alice") == again, "nothing new, nothing published"
    finally:
        await host.close()


async def test_where_a_node_always_hears_is_published_beside_what_is_mapped(specs: list[NodeSpec]) -> None:
    known: list[PeerView] = []

    async def learn(records: dict[str, RecordView]) -> None:
        known.extend(record.view for record in records.values())

    mapped = Endpoint(HOME, 5555)
    host, [alice, *_] = SignalHost(), specs
    host.bind(SignalPorts(deliver={}, learn=learn))
    try:
        await host.remap([("alice", (mapped,))])
        await host.open_nodes([alice], {}, [alice.identity.public])
        for plugin, ports, standing in (
            ("udp_punch", {4: 4000}, {"udp_punch": {4: 4000}}),
            ("random_probe", {4: 5000}, {"udp_punch": {4: 4000}, "random_probe": {4: 5000}}),
            ("udp_punch", {}, {"random_probe": {4: 5000}}),
            ("random_probe", {}, {}),
        ):
            await host.stand([StandingPorts("alice", plugin, ports)])
            view = view_of(SignedRecord.decode(await host.own_record("alice")).verify(alice.identity.public))
            assert (view.standing, view.mapped) == (known[-1].standing, known[-1].mapped) == (standing, (mapped,))
    finally:
        await host.close()


def test_a_record_cannot_make_others_dial_a_third_party() -> None:
    identity = Identity.from_seed("alice", b"a" * 32)
    record = AddressRecord(
        name="alice",
        node_id=identity.public.node_id,
        seq=1,
        issued_at=0,
        expires_at=1,
        external={4: "203.0.113.7"},
        listeners=tuple(ListenerAddress(ip=f"203.0.113.{host}", port=1, external=True) for host in (7, 8)),
    )
    assert view_of(record).mapped == (Endpoint("203.0.113.7", 1),)
