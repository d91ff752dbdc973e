"""Signals and streams from peers: who may open an attempt, which one they reach, and what they end."""

import asyncio
from dataclasses import replace

import pytest
from plugin_bench import NAME, ORDER, Ask, Bench, Fake, Tell, signal

from fake_node import ALICE, ATTEMPT_ID, CONNECTION_ID, HEAD, MALLORY, STARTED_AT_US
from virtual_time import virtual_time
from warpfleet.actors.values import IncomingSignal, Stage
from warpfleet.core.combo import AttemptOutcome, Reason, RouteType
from warpfleet.net.handshake import Frame, FrameType
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_messages import Abandon
from warpfleet.plugins.inbox import InboundStream

pytestmark = pytest.mark.usefixtures("fake_plugin")


def hello(**changes: object) -> Frame:
    frame = Frame(FrameType.HELLO, NAME, RouteType.EXT, CONNECTION_ID, ATTEMPT_ID, STARTED_AT_US, ALICE.public.key)
    return replace(frame, **changes)  # type: ignore[arg-type]


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
