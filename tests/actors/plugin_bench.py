"""A plugin of the tests' own, and a host that runs it for Alice and Bob."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

from fake_network import FakeStream, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, CONNECTION_ID, STARTED_AT_US
from warpfleet.actors.plugin_host import Handed, HostPorts, PluginHost
from warpfleet.actors.values import IncomingSignal, NodeSpec, OutgoingSignal, Report, StandingPorts, StartAttempt, Use
from warpfleet.core.combo import AttemptOutcome, Combo, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import PeerView
from warpfleet.net.handshake import Frame
from warpfleet.net.interfaces import Pipe
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.registry import Registration

NAME = "fake_plugin"
NO_LISTENERS: Mapping[str, list[Endpoint]] = {"alice": [], "bob": []}


class Ask(AttemptMessage):
    kind: ClassVar[str] = "fake_plugin.ask"
    opens: ClassVar[bool] = True


class Tell(AttemptMessage):
    kind: ClassVar[str] = "fake_plugin.tell"


class Fake(Strategy):
    """Does what `body` says."""

    name = NAME
    transport = Transport.TCP
    requirement = Requirement.SIGNAL
    routes = (RouteType.EXT,)
    accepts_streams = True
    body: ClassVar[Callable[[AttemptContext], Awaitable[Won | None]]]

    async def run(self) -> Won | None:
        return await type(self).body(self.context)


async def forever(_context: AttemptContext) -> None:
    await asyncio.Event().wait()


def spec(identity: Identity) -> NodeSpec:
    vantage = Vantage(address="127.0.0.1")
    return NodeSpec(identity=identity, vantage=vantage, listen=(0,), brokers=(), stun=(), turn=(), ntp=())


ORDER = StartAttempt(
    node="alice",
    attempt_id=ATTEMPT_ID,
    connection_id=CONNECTION_ID,
    started_at_us=STARTED_AT_US,
    combo=Combo(NAME, 4, RouteType.EXT),
    timeout_s=10,
    peer="bob",
    theirs=PeerView(name="bob", machine=""),
    use=Use.HOLD,
)


class Bench:
    """A host that serves Alice and Bob."""

    def __init__(self) -> None:
        self.internet = Internet()
        self.reports: list[Report] = []
        self.posted: list[OutgoingSignal] = []
        self.handed: list[tuple[str, str]] = []
        self.held: list[tuple[str, Side, Pipe]] = []
        self.registration = Registration(Fake, None)
        self.mapped: list[tuple[str, tuple[Endpoint, ...]]] = []
        self.standing: list[StandingPorts] = []
        self.host = PluginHost(on_pipe=lambda node, _id, side, pipe: self.held.append((node, side, pipe)))

    async def open(self, listeners: Mapping[str, list[Endpoint]] = NO_LISTENERS) -> PluginHost:
        async def report(batch: list[Report]) -> None:
            self.reports += batch

        async def post(batch: list[OutgoingSignal]) -> None:
            self.posted += batch

        async def own_record(_node: str) -> bytes:
            return b""

        async def learn_record(_peer: str, _signed: bytes) -> bool:
            return True

        def hand_over(plugin: str, node: str, _handed: Handed) -> None:
            self.handed.append((plugin, node))

        async def remap(batch: list[tuple[str, tuple[Endpoint, ...]]]) -> None:
            self.mapped += batch

        async def stand(batch: list[StandingPorts]) -> None:
            self.standing += batch

        self.host.bind(NAME, HostPorts(report, post, hand_over, own_record, learn_record, remap, stand))
        self.host.registration = self.registration
        opened = await self.host.open_nodes([spec(ALICE), spec(BOB)], [ALICE.public, BOB.public])
        assert opened == listeners
        return self.host

    def ends(self) -> list[tuple[str, AttemptOutcome | None, Reason | None]]:
        return [(r.node, r.outcome, r.reason) for r in self.reports if r.outcome]

    def stream(self, frame: Frame) -> tuple[FakeStream, InboundStream]:
        near, _ = self.internet.stream_pair(Endpoint("203.0.113.2", 443), Endpoint("203.0.113.1", 5))
        return near, InboundStream(near, frame.sign(ALICE, BOB.public))


def signal(message: AttemptMessage | None, *, sender: str = "alice", node: str = "bob") -> IncomingSignal:
    return IncomingSignal(node, sender, CONNECTION_ID, NAME, ATTEMPT_ID, message)
