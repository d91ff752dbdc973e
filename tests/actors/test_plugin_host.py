"""A plugin host with a plugin of the test's own: both sides of attempts, who may open them, and how they end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from fake_network import FakeStream, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, CONNECTION_ID, MALLORY, STARTED_AT_US
from sealed import quic_pipes, tls_pipes
from virtual_time import now_s, virtual_time
from warpfleet.actors.echo import echo
from warpfleet.actors.plugin_host import Handed, HostPorts, PluginHost
from warpfleet.actors.values import (
    CancelAttempt,
    IncomingSignal,
    NameWinner,
    NodeSpec,
    OutgoingSignal,
    Report,
    Stage,
    StartAttempt,
    Use,
)
from warpfleet.core.combo import AttemptOutcome, Combo, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.core.targets import Budget
from warpfleet.net import descriptors
from warpfleet.net.handshake import Frame, FrameType, Wishes
from warpfleet.net.interfaces import Pipe
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.attempt_messages import Abandon, AttemptMessage
from warpfleet.plugins.contract import AttemptFactory, Strategy
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.loader import registrations
from warpfleet.plugins.node_ports import NodePorts
from warpfleet.plugins.registry import REGISTRY, Registration
from warpfleet.plugins.room import MAX_SOCKETS

NAME = "fake_plugin"
DOOR = Endpoint("0.0.0.0", 443)
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


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    registrations()
    REGISTRY.add(Registration(Fake, None))
    Fake.body = forever  # type: ignore[assignment]
    yield
    del REGISTRY._entries[NAME]


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
HEAD = {"attempt_id": ATTEMPT_ID, "af": 4, "route": RouteType.EXT, "started_at_us": STARTED_AT_US}


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
        self.standing: list[tuple[str, dict[AddressFamily, int]]] = []
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

        async def stand(batch: list[tuple[str, dict[AddressFamily, int]]]) -> None:
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


def hello(**changes: object) -> Frame:
    frame = Frame(FrameType.HELLO, NAME, RouteType.EXT, CONNECTION_ID, ATTEMPT_ID, STARTED_AT_US, ALICE.public.key)
    return replace(frame, **changes)  # type: ignore[arg-type]


@virtual_time
async def test_a_node_that_the_plugin_opts_out_of_is_not_served() -> None:
    class Picky(Fake):
        @classmethod
        async def setup(cls, _node: object) -> None:
            return None

    bench = Bench()
    bench.host.bind(NAME, HostPorts(*[lambda *_: asyncio.sleep(0)] * 7))  # type: ignore[list-item]
    bench.host.registration = Registration(Picky, None)
    assert await bench.host.open_nodes([spec(ALICE)], []) == {"alice": None}
    await bench.host.close()


@virtual_time
async def test_where_nodes_are_mapped_is_told_and_those_who_plan_may_wait_for_it() -> None:
    granted, external = asyncio.Event(), Endpoint("198.51.100.7", 5555)

    class Mapping(Fake):
        @classmethod
        async def setup(cls, node: NodePorts) -> AttemptFactory | None:
            async def map_listener() -> None:
                await granted.wait()
                node.advertise_mapping(DOOR, external)

            node.advertise(DOOR)
            node.spawn(map_listener())
            node.expect(granted.wait)  # type: ignore[arg-type]
            return cls

    bench = Bench()
    bench.registration = Registration(Mapping, None)
    host = await bench.open({"alice": [DOOR], "bob": [DOOR]})
    settling = asyncio.create_task(host.settle())
    await asyncio.sleep(1)
    assert bench.mapped == [("alice", ()), ("bob", ())], "whoever held the nodes before may have had mappings"
    assert not settling.done()
    granted.set()
    await settling
    assert bench.mapped[2:] == [("alice", (external,)), ("bob", (external,))]
    host.tell_ports()
    await asyncio.sleep(0.1)
    assert bench.mapped[4:] == bench.mapped[2:4]
    await host.close()


@virtual_time
async def test_where_a_node_always_hears_is_told_and_told_again() -> None:
    class Standing(Fake):
        @classmethod
        async def setup(cls, node: NodePorts) -> AttemptFactory:
            async def listen() -> None:
                await node.viewed()
                node.advertise_standing(4, 4000)
                node.advertise_standing(6, 6000)
                node.advertise_standing(6, None)

            node.spawn(listen())
            return cls

    bench = Bench()
    bench.registration = Registration(Standing, None)
    host = await bench.open()
    await asyncio.sleep(1)
    assert bench.standing == [], "nothing is known of the node's NATs"
    await host.take_views({"alice": PeerView(name="alice", machine="")})
    await asyncio.sleep(1)
    assert bench.standing == [("alice", {4: 4000}), ("alice", {4: 4000, 6: 6000}), ("alice", {4: 4000})]
    host.tell_ports()
    await asyncio.sleep(1)
    assert bench.standing[3:] == [("alice", {4: 4000})]
    await host.close()


@virtual_time
async def test_a_gateway_that_dawdles_is_not_waited_for_without_end() -> None:
    class Dawdling(Fake):
        @classmethod
        async def setup(cls, node: NodePorts) -> AttemptFactory | None:
            node.expect(asyncio.Event().wait)  # type: ignore[arg-type]
            return cls

    bench = Bench()
    bench.registration = Registration(Dawdling, None)
    host = await bench.open()
    async with asyncio.timeout(4):
        await host.settle()
    await host.close()


@virtual_time
@pytest.mark.parametrize(
    ("order", "reason"),
    [(replace(ORDER, node="carol"), Reason.OPTED_OUT), (replace(ORDER, peer="mallory"), Reason.UNTRUSTED)],
)
async def test_what_cannot_be_started_is_reported_at_once(order: StartAttempt, reason: Reason) -> None:
    bench = Bench()
    host = await bench.open()
    await host.command([order])
    await asyncio.sleep(0.1)
    assert [(r.outcome, r.reason) for r in bench.reports] == [(AttemptOutcome.FAILED, reason)]
    await host.close()


@virtual_time
async def test_started_and_cancelled_in_one_batch_it_still_says_how_it_ended() -> None:
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER, CancelAttempt("alice", ATTEMPT_ID, Reason.OTHER_PIPE_WON)])
    await asyncio.sleep(0.1)
    assert bench.ends() == [("alice", AttemptOutcome.CANCELLED, Reason.OTHER_PIPE_WON)]
    await host.close()


@virtual_time
async def test_attempts_of_one_host_share_its_room_for_sockets() -> None:
    taken = 0

    async def body(context: AttemptContext) -> None:
        nonlocal taken
        async with context.room.take(MAX_SOCKETS // 2, context.attempt_id):
            taken += 1
            await asyncio.Event().wait()

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    orders = [replace(ORDER, attempt_id=f"{number:032x}", timeout_s=number + 1) for number in range(5)]
    await host.command(orders)
    await asyncio.sleep(0.5)
    at_once = 2 if descriptors.limit() >= 2 * MAX_SOCKETS else 1
    assert taken == at_once
    await asyncio.sleep(1)
    assert bench.ends() == [("alice", AttemptOutcome.TIMEOUT, Reason.NO_ANSWER)]
    assert taken == at_once + 1
    await host.close()


@virtual_time
async def test_attempts_with_one_peer_share_a_budget_also_one_after_the_other() -> None:
    budgets: list[tuple[str, Budget]] = []

    async def body(context: AttemptContext) -> None:
        budgets.append((context.node.name, context.network._budget))  # type: ignore[attr-defined]

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    for number in range(3):
        order = replace(ORDER, attempt_id=f"{number:032x}")
        await host.command([order if number < 2 else replace(order, node="bob", peer="alice")])
        await asyncio.sleep(0.1)
    await host.close()
    [(_, first), (_, second), (other, third)] = budgets
    assert first is second
    assert (other, third is first) == ("bob", False)


@virtual_time
async def test_plugins_see_the_clock_as_ntp_corrects_it() -> None:
    seen_us: list[int] = []
    began_us: list[int] = []

    async def body(context: AttemptContext) -> None:
        seen_us.append(context.node.now_us())
        began_us.append(context.started_at_us)

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await asyncio.sleep(0.1)
    await host.take_views({"alice": PeerView(name="alice", machine="")}, 3600.0)
    await host.command([replace(ORDER, attempt_id="a1" * 16)])
    await asyncio.sleep(0.1)
    await host.close()
    [before_us, after_us] = seen_us
    assert before_us == pytest.approx(time.time_ns() // 1000, abs=60_000_000)
    assert after_us - before_us == pytest.approx(3_600_000_000, abs=60_000_000)
    assert began_us == [STARTED_AT_US, STARTED_AT_US + 3_600_000_000], "a peer holds it against its own clock"
    assert {report.started_at_us for report in bench.reports} == {STARTED_AT_US}, "rows are by the machine's"


@virtual_time
async def test_both_sides_of_one_attempt_may_live_here_and_both_pipes_are_held() -> None:
    async def body(context: AttemptContext) -> Pipe:
        if context.side is Side.INITIATOR:
            await context.claim()
        pipe, _ = await tls_pipes(*bench.internet.stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2)))
        return pipe

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(1)
    await host.command([NameWinner("alice", ATTEMPT_ID)])
    await asyncio.sleep(1)
    assert [(node, side) for node, side, _ in bench.held] == [("bob", Side.RESPONDER), ("alice", Side.INITIATOR)]
    await host.close()


@virtual_time
async def test_what_the_peer_only_measures_is_echoed_and_not_held() -> None:
    async def body(context: AttemptContext) -> Pipe:
        context.peer_wishes = Wishes.MEASURED
        return bobs

    bench = Bench()
    bobs, alices = await tls_pipes(*bench.internet.stream_pair(Endpoint("203.0.113.2", 2), Endpoint("203.0.113.1", 1)))
    Fake.body = body  # type: ignore[assignment]
    host = await bench.open()
    await host.deliver([signal(Ask(**HEAD))])
    await alices.send(b"token")
    assert await alices.recv() == b"token"
    assert bench.held == []
    await alices.close()
    await host.close()


@virtual_time
@pytest.mark.parametrize(
    "incoming",
    [
        signal(Tell(**HEAD)),
        signal(Abandon(**HEAD, plugin=NAME)),
        signal(None),
        signal(Ask(**HEAD), node="carol"),
        signal(Ask(**HEAD), sender="mallory"),
    ],
    ids=["no opening message", "abandon", "undelivered", "another host's node", "a stranger"],
)
async def test_only_an_opening_message_of_a_trusted_peer_opens_an_attempt(incoming: IncomingSignal) -> None:
    bench = Bench()
    host = await bench.open()
    await host.deliver([incoming])
    await asyncio.sleep(0.1)
    assert bench.reports == []
    await host.close()


@virtual_time
async def test_messages_reach_the_attempt_of_their_sender_only() -> None:
    heard: list[str] = []

    async def body(context: AttemptContext) -> None:
        await context.inbox.message(Tell)
        heard.append(context.peer.name)

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await host.deliver([signal(Tell(**HEAD), node="alice", sender="mallory")])
    await asyncio.sleep(1)
    assert heard == []
    await host.deliver([signal(Tell(**HEAD), node="alice", sender="bob")])
    await asyncio.sleep(1)
    assert heard == ["bob"]
    await host.close()


@virtual_time
@pytest.mark.parametrize(
    ("incoming", "end"),
    [
        (
            signal(Abandon(**HEAD, plugin=NAME), node="alice", sender="bob"),
            (AttemptOutcome.CANCELLED, Reason.PEER_CLOSED),
        ),
        (signal(None, node="alice", sender="bob"), (AttemptOutcome.FAILED, Reason.PEER_UNAVAILABLE)),
    ],
)
async def test_what_the_peer_cannot_or_will_not_do_ends_the_attempt(
    incoming: IncomingSignal, end: tuple[AttemptOutcome, Reason]
) -> None:
    async def body(context: AttemptContext) -> None:
        await context.inbox.message(Tell)

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await host.deliver([incoming])
    await asyncio.sleep(0.1)
    assert bench.ends() == [("alice", *end)]
    await host.close()


@virtual_time
async def test_a_responder_ends_after_fifteen_seconds_at_the_latest() -> None:
    bench = Bench()
    host = await bench.open()
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(14.9)
    assert bench.ends() == []
    await asyncio.sleep(0.2)
    assert bench.ends() == [("bob", AttemptOutcome.TIMEOUT, Reason.NO_ANSWER)]
    assert isinstance(bench.posted[0].message, Abandon)
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(16)
    assert len(bench.ends()) == 1, "what opened it comes again too late"
    await host.close()


@virtual_time
async def test_peers_cannot_open_attempts_without_bound() -> None:
    bench = Bench()
    host = await bench.open()
    for number in range(200):
        one = replace(signal(Ask(**HEAD | {"attempt_id": f"{number:032x}"})), attempt_id=f"{number:032x}")
        await host.deliver([one])
    await asyncio.sleep(0.1)
    assert len([r for r in bench.reports if r.stage is Stage.OPENED]) == 48
    await host.close()


@virtual_time
async def test_an_inbound_stream_opens_an_attempt_and_is_handed_to_it() -> None:
    got: list[InboundStream] = []

    async def body(context: AttemptContext) -> None:
        got.append(await context.inbox.stream())
        await asyncio.Event().wait()

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    stream, inbound = bench.stream(hello())
    host.adopt("bob", inbound)
    await asyncio.sleep(0.1)
    assert got == [inbound]
    assert not stream.closed
    await host.close()


@virtual_time
async def test_a_signal_that_comes_after_its_stream_has_been_served_opens_nothing() -> None:
    async def body(context: AttemptContext) -> None:
        (await context.inbox.stream()).discard()

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    host.adopt("bob", bench.stream(hello())[1])
    await asyncio.sleep(0.1)
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(0.1)
    assert len([r for r in bench.reports if r.stage is Stage.OPENED]) == 1
    await host.close()


@virtual_time
@pytest.mark.parametrize("frame", [hello(type=FrameType.KNOCK), hello(type=FrameType.CLOSE)])
async def test_a_stream_that_opens_nothing_is_closed(frame: Frame) -> None:
    bench = Bench()
    host = await bench.open()
    stream, inbound = bench.stream(frame)
    host.adopt("bob", inbound)
    assert stream.closed
    await host.close()


@virtual_time
async def test_a_stream_for_the_attempt_of_another_peer_is_closed() -> None:
    bench = Bench()
    host = await bench.open()
    host.trust([MALLORY.public])
    await host.deliver([signal(Ask(**HEAD), sender="mallory")])
    stream, inbound = bench.stream(hello())
    host.adopt("bob", inbound)
    assert stream.closed
    await host.close()


@virtual_time
async def test_closing_ends_what_runs_and_says_so() -> None:
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(1)
    await host.close()
    stopped = AttemptOutcome.CANCELLED, Reason.STOPPED
    assert sorted(bench.ends()) == [("alice", *stopped), ("bob", *stopped)]
    assert now_s() == pytest.approx(1)
    assert len(asyncio.all_tasks()) == 1


# Relayed pipes that move


class Relayed:
    """A relayed pipe from Alice's host to Bob, and a direct path for it."""

    def __init__(self, use: Use) -> None:
        self.bench = Bench()
        self.order = replace(ORDER, use=use)
        self.far: QuicPipe | None = None
        Fake.body = self.make  # type: ignore[assignment]

    async def make(self, context: AttemptContext) -> Pipe:
        await context.claim()
        internet = self.bench.internet
        near, self.far = await quic_pipes(FakeUdp(internet, NEAR), FakeUdp(internet, FAR), relayed=True)
        return near

    async def begin(self) -> PluginHost:
        host = await self.bench.open()
        await host.command([self.order, NameWinner("alice", ATTEMPT_ID)])
        return host

    def path(self, *, peer: str = "bob", side: Side = Side.INITIATOR) -> ProvedPath:
        way = DatagramPath(FakeUdp(self.bench.internet, DIRECT), FAR_DIRECT)
        return ProvedPath(NAME, CONNECTION_ID, peer, side, way)

    def stages(self) -> list[Stage]:
        return [report.stage for report in self.bench.reports if report.stage is not Stage.READY]


NEAR, FAR = Endpoint("198.51.100.9", 1), Endpoint("198.51.100.9", 2)
DIRECT, FAR_DIRECT = Endpoint("203.0.113.1", 7), Endpoint("203.0.113.2", 8)


@virtual_time
async def test_a_held_pipe_moves_to_the_path_that_comes_for_it_and_its_end_is_told() -> None:
    relayed = Relayed(Use.HOLD)
    host = await relayed.begin()
    await asyncio.sleep(1)
    [(_, _, pipe)] = relayed.bench.held
    host.adopt("alice", relayed.path())
    assert not pipe.path.relayed
    second = relayed.path()
    host.adopt("alice", second)
    assert second.way.socket.closed, "one is enough"  # type: ignore[attr-defined]
    await pipe.close()
    await asyncio.sleep(1)
    assert relayed.stages() == [Stage.WON, Stage.MOVED, Stage.ENDED]
    late = relayed.path()
    host.adopt("alice", late)
    assert late.way.socket.closed  # type: ignore[attr-defined]
    await host.close()


@virtual_time
@pytest.mark.parametrize("whose", [{"peer": "mallory"}, {"side": Side.RESPONDER}])
async def test_a_path_for_another_pipe_is_closed(whose: dict[str, Any]) -> None:
    relayed = Relayed(Use.HOLD)
    host = await relayed.begin()
    await asyncio.sleep(1)
    path = relayed.path(**whose)
    host.adopt("alice", path)
    assert path.way.socket.closed  # type: ignore[attr-defined]
    assert relayed.bench.held[0][2].path.relayed
    await host.close()


@virtual_time
async def test_a_path_that_overtakes_the_tunnel_waits_for_the_pipe() -> None:
    relayed = Relayed(Use.HOLD)
    host = await relayed.begin()
    await asyncio.sleep(0)
    assert relayed.bench.held == []
    host.adopt("alice", relayed.path())
    await asyncio.sleep(1)
    assert not relayed.bench.held[0][2].path.relayed
    await host.close()


@virtual_time
async def test_a_path_whose_pipe_never_comes_is_closed() -> None:
    relayed = Relayed(Use.HOLD)
    Fake.body = forever  # type: ignore[assignment]
    host = await relayed.begin()
    path = relayed.path()
    host.adopt("alice", path)
    await host.command([CancelAttempt("alice", ATTEMPT_ID, Reason.STOPPED)])
    await asyncio.sleep(1)
    assert path.way.socket.closed  # type: ignore[attr-defined]
    await host.close()


@virtual_time
async def test_a_kept_pipe_is_measured_on_either_path_and_closed_when_it_is_cancelled() -> None:
    relayed = Relayed(Use.KEEP)
    host = await relayed.begin()
    await asyncio.sleep(0.2)
    assert relayed.far is not None
    echoing = asyncio.create_task(echo(relayed.far))
    await asyncio.sleep(2)
    assert relayed.stages() == [Stage.WON, Stage.MEASURED]
    far = DatagramPath(FakeUdp(relayed.bench.internet, FAR_DIRECT), DIRECT)
    relayed.far.move(far)
    host.adopt("alice", relayed.path())
    await asyncio.sleep(2)
    assert relayed.stages() == [Stage.WON, Stage.MEASURED, Stage.MOVED, Stage.MEASURED]
    assert far.socket.packets_sent
    await host.command([CancelAttempt("alice", ATTEMPT_ID, Reason.NOT_NEEDED)])
    await echoing
    await asyncio.sleep(1)
    assert relayed.bench.internet.open_sockets() == []
    await host.close()


@virtual_time
async def test_the_path_of_another_plugins_pipe_is_handed_to_its_host() -> None:
    relayed = Relayed(Use.HOLD)

    async def win_path(context: AttemptContext) -> ProvedPath:
        moves = await context.claim()
        return replace(relayed.path(), plugin=moves or "")

    Fake.body = win_path  # type: ignore[assignment]
    host = await relayed.bench.open()
    await host.command([relayed.order, NameWinner("alice", ATTEMPT_ID, moves="turn")])
    await asyncio.sleep(1)
    assert relayed.bench.handed == [("turn", "alice")]
    await host.close()
