"""What a signal host reports of its nodes' NATs; real broker, real STUN server, on loopback."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from warpfleet.actors.coordinator import RecordView
from warpfleet.actors.signal_host import SignalHost, SignalPorts
from warpfleet.actors.values import NodeSpec
from warpfleet.configs.fleet import Broker
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.identity import Identity
from warpfleet.core.nat import NatSource
from warpfleet.net.stunserver import StunServer
from warpfleet.net.vantage import Vantage
from warpfleet.signal.broker import EmbeddedBroker

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
