"""The handshake that goes ahead of its stream: what it saves, who may go on with it, and that nothing waits in vain."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from fake_network import DELAY_S, FakeStream, Internet
from fake_node import ALICE, BOB, MALLORY, contexts, handshakes, node, view
from virtual_time import now_s, virtual_time
from warpfleet.configs.topology import PRESETS
from warpfleet.core.combo import Combo, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, NatBehaviour
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, ProofFailed, is_frame
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.tls import TlsPipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.contract import AttemptFactory, Strategy
from warpfleet.plugins.direct_connect import DirectConnect
from warpfleet.plugins.direct_connect.messages import Answer, Greeting
from warpfleet.plugins.head_start import HeadStart
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.reverse_connect import ReverseConnect
from warpfleet.plugins.streams import accept

OPEN = NatBehaviour(translated=False, filtering=Filtering.EIF)
HOME = PRESETS["full_cone"]
assert HOME
A, B = "203.0.113.1", "203.0.113.2"
FRAME_AGE_MAX_US = 120_000_000


class Meeting:
    """One attempt between Alice and Bob, who listen at these ports. Bob opens his side as soon as he hears of it: by a
    signal, or by a stream."""

    def __init__(self, technique: type[Strategy], ports: tuple[int, ...] = (443,), **b: NatBehaviour) -> None:
        self.internet = Internet()
        nats = {"alice": OPEN, "bob": OPEN} | b
        self.alice, self.bob = (node(who, self.internet, ip, listen_ports=ports) for who, ip in ((ALICE, A), (BOB, B)))
        for each in (self.alice, self.bob):
            each.view = replace(view(each.name, each.network.ip, ports=ports), nat={4: nats[each.name]})
        self.technique = technique
        self.factories: dict[str, AttemptFactory] = {}
        self.signals: list[AttemptMessage] = []
        self.loses: Callable[[AttemptMessage], bool] = lambda _message: False
        self.late_s = 0.0
        self.responding: asyncio.Task[Pipe] | None = None
        combo = Combo(technique.name, 4, RouteType.EXT)
        self.a, self.b = contexts(self.alice, self.bob, combo, opened=lambda _context: self._open())
        for context in (self.a, self.b):
            context.post = self._posted(context.post)
        deliver = self.bob.on_inbound
        assert deliver

        def inbound(stream: InboundStream) -> None:
            self._open()
            deliver(stream)

        self.bob.on_inbound = inbound

    def _open(self) -> None:
        self.responding = self.responding or asyncio.create_task(self.run(self.b))

    def _posted(self, post: Callable[[AttemptMessage], None]) -> Callable[[AttemptMessage], None]:
        def posted(message: AttemptMessage) -> None:
            self.signals.append(message)
            if not self.loses(message):
                asyncio.get_running_loop().call_later(self.late_s, post, message)

        return posted

    async def open(self) -> None:
        """Have both listen."""
        for each in (self.alice, self.bob):
            factory = await DirectConnect.setup(each)
            assert factory
            self.factories[each.name] = factory if self.technique is DirectConnect else self.technique

    async def run(self, context: AttemptContext) -> Pipe:
        """Run one side."""
        pipe = await self.factories[context.node.name](context).run()
        assert isinstance(pipe, TlsPipe)
        return pipe

    async def connect(self) -> tuple[Pipe, float]:
        """Alice's pipe, and when she had it. Bob echoes."""
        await self.open()
        async with asyncio.timeout(5):
            pipe = await self.run(self.a)
            had_s = now_s()
            self.bob.spawn(self._echo())
            return pipe, had_s

    async def _echo(self) -> None:
        assert self.responding
        async for data in (pipe := await self.responding):
            await pipe.send(data)

    async def first_byte_s(self, pipe: Pipe) -> float:
        """When the first byte is back."""
        async with asyncio.timeout(5):
            await pipe.send(b"x")
            assert await pipe.recv() == b"x"
        return now_s()

    def first_frames(self) -> list[FrameType]:
        """What Alice's streams began with at Bob's door."""
        return [Frame.parse(inbound.first_frame).type for inbound in self.bob.arrived]

    async def close(self, pipe: Pipe) -> None:
        assert self.responding
        await asyncio.gather(pipe.close(), (await self.responding).close())
        await asyncio.gather(self.alice.close(), self.bob.close())
        assert self.internet.open_sockets() == []


@virtual_time
async def test_the_first_byte_is_back_after_two_round_trips() -> None:
    meeting = Meeting(DirectConnect)
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx(2 * DELAY_S), "SYN and SYN-ACK, while the signals go there and back"
    assert await meeting.first_byte_s(pipe) == pytest.approx(4 * DELAY_S), "TAKE with the first byte, and its echo"
    assert meeting.first_frames() == [FrameType.TAKE]
    await meeting.close(pipe)


@virtual_time
async def test_where_the_peer_dials_it_is_one_signal_and_two_and_a_half_round_trips() -> None:
    meeting = Meeting(ReverseConnect, bob=HOME.behaviour)
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx(4 * DELAY_S), "signal, SYN, SYN-ACK, PROOF with the flight"
    assert await meeting.first_byte_s(pipe) == pytest.approx(6 * DELAY_S), "TAKE with the first byte, and its echo"
    assert [Frame.parse(i.first_frame).type for i in meeting.alice.arrived] == [FrameType.PROOF]
    await meeting.close(pipe)


@virtual_time
@pytest.mark.parametrize("lost", [Greeting, Answer])
async def test_where_a_signal_is_lost_a_stream_waits_for_one_round_trip_and_greets(lost: type[AttemptMessage]) -> None:
    meeting = Meeting(DirectConnect)
    meeting.loses = lambda message: isinstance(message, lost)
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx(6 * DELAY_S), "SYN, the wait, HELLO and PROOF: a round trip each"
    await meeting.first_byte_s(pipe)
    assert meeting.first_frames() == [FrameType.HELLO]
    await meeting.close(pipe)


@virtual_time
async def test_an_answer_that_is_late_is_waited_for_where_that_saves_time() -> None:
    meeting = Meeting(DirectConnect)
    meeting.late_s = 0.6 * DELAY_S
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx((2 + 2 * 0.6) * DELAY_S)
    await meeting.close(pipe)


@virtual_time
async def test_an_answer_that_comes_after_the_greeting_changes_nothing() -> None:
    meeting = Meeting(DirectConnect)
    meeting.late_s = 1.5 * DELAY_S
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx(6 * DELAY_S)
    assert await meeting.first_byte_s(pipe) == pytest.approx(8 * DELAY_S)
    await meeting.close(pipe)


@virtual_time
async def test_of_several_streams_one_alone_goes_on_with_it() -> None:
    meeting = Meeting(DirectConnect, ports=(443, 444, 445))
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx(2 * DELAY_S)
    await meeting.first_byte_s(pipe)
    assert meeting.first_frames().count(FrameType.TAKE) == 1
    await meeting.close(pipe)


@virtual_time
async def test_where_the_stream_that_has_it_dies_the_next_greets_anew() -> None:
    meeting = Meeting(DirectConnect, ports=(443, 444))
    meeting.late_s = 0.3 * DELAY_S  # so that the first stream waits for it first
    claims: list[float] = []

    async def claim() -> None:
        claims.append(now_s())
        if len(claims) == 1:
            meeting.internet.streams[0].close()

    meeting.a.claim = claim
    pipe, _ = await meeting.connect()
    assert pipe.path.remote == Endpoint(B, 444)
    await meeting.first_byte_s(pipe)
    assert meeting.first_frames() == [FrameType.HELLO], "the first had not said a word yet"
    await meeting.close(pipe)


NOT_SURE = {
    "a host behind a router": (HOME.behaviour, ()),
    "a firewall": (NatBehaviour(translated=False, filtering=Filtering.APDF), ()),
    "nothing is known": (NatBehaviour(), ()),
}


@virtual_time
@pytest.mark.parametrize("who", NOT_SURE)
async def test_who_might_not_be_met_there_is_not_handed_a_pipe_on_the_word_of_a_signal(who: str) -> None:
    meeting = Meeting(DirectConnect, bob=NOT_SURE[who][0])
    pipe, had_s = await meeting.connect()
    assert had_s == pytest.approx(4 * DELAY_S), "SYN, and HELLO and PROOF on the stream"
    assert meeting.signals == []
    await meeting.close(pipe)


@virtual_time
async def test_of_a_host_behind_a_router_the_mapped_port_alone_is_sure() -> None:
    meeting = Meeting(DirectConnect, ports=(443, 444), bob=HOME.behaviour)
    meeting.bob.view = replace(meeting.bob.view, mapped=(Endpoint(B, 444),))
    meeting.a.theirs = meeting.bob.view
    pipe, had_s = await meeting.connect()
    assert (had_s, pipe.path.remote.port) == (pytest.approx(2 * DELAY_S), 444)
    await meeting.close(pipe)


@virtual_time
@pytest.mark.parametrize("rtt_ms", [0.2, 80.0])
async def test_a_path_that_is_faster_than_any_signal_needs_none(rtt_ms: float) -> None:
    meeting = Meeting(DirectConnect)
    meeting.a.rtt_ms = rtt_ms
    pipe, _ = await meeting.connect()
    assert bool(meeting.signals) is (rtt_ms > 10)
    await meeting.close(pipe)


@virtual_time
async def test_a_door_that_would_stay_shut_is_not_promised() -> None:
    meeting = Meeting(DirectConnect)
    meeting.bob.clock_ahead_us = 2 * FRAME_AGE_MAX_US
    await meeting.open()
    dialling = asyncio.create_task(meeting.run(meeting.a))
    with pytest.raises(ConnectionLost):
        await dialling
    assert [type(message) for message in meeting.signals] == [Greeting]
    assert meeting.responding
    meeting.responding.cancel()
    await asyncio.gather(meeting.alice.close(), meeting.bob.close())


@virtual_time
async def test_in_a_crowd_most_attempts_say_everything_on_the_stream() -> None:
    meeting = Meeting(DirectConnect)
    await meeting.open()
    greeted: list[AttemptMessage] = []
    crowd = []
    for number in range(32):
        a, _ = contexts(meeting.alice, meeting.bob, Combo("direct_connect", 4, RouteType.EXT))
        a.attempt_id, a.post = f"{number:032x}", greeted.append
        crowd.append(asyncio.create_task(meeting.run(a)))
    await asyncio.sleep(3 * DELAY_S)
    assert (len(greeted), len(meeting.internet.streams)) == (8, 64)
    for one in crowd:
        one.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    a, _ = contexts(meeting.alice, meeting.bob, Combo("direct_connect", 4, RouteType.EXT))
    a.post = greeted.append
    last = asyncio.create_task(meeting.run(a))
    await asyncio.sleep(DELAY_S)
    assert len(greeted) == 9, "there is room again"
    last.cancel()
    await asyncio.gather(last, meeting.alice.close(), meeting.bob.close(), return_exceptions=True)


def opened(meeting: Meeting) -> tuple[HeadStart, bytes, bytes]:
    """Bob's head start, which Alice has greeted, and what both have said."""
    alices, bobs = HeadStart(meeting.a), HeadStart(meeting.b)
    greeting = alices.greet()
    answer = bobs.answer(greeting)
    alices.hear(answer)
    begun = alices.begun()
    assert begun
    return bobs, greeting, begun.handshake.take()


def arriving(meeting: Meeting, first_frame: bytes) -> FakeStream:
    near, _far = meeting.internet.stream_pair(Endpoint(B, 443), Endpoint(A, 9))
    meeting.b.inbox.put_stream(InboundStream(near, first_frame))
    return near


@virtual_time
async def test_what_one_stream_goes_on_with_no_other_may() -> None:
    meeting = Meeting(DirectConnect)
    bobs, _, take = opened(meeting)
    first, second = arriving(meeting, take), arriving(meeting, take)
    accepting = asyncio.create_task(accept(meeting.b, bobs))
    await asyncio.sleep(DELAY_S)
    assert (first.closed, second.closed) == (False, True)
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)


@virtual_time
async def test_nobody_goes_on_with_what_was_not_begun() -> None:
    meeting = Meeting(DirectConnect)
    _, _, take = opened(meeting)
    stream = arriving(meeting, take)
    with pytest.raises(ProofFailed):
        await accept(meeting.b)
    assert stream.closed


@virtual_time
async def test_what_was_said_in_an_earlier_attempt_opens_nothing() -> None:
    earlier, meeting = Meeting(DirectConnect), Meeting(DirectConnect)
    meeting.b.nonce = b"another nonce..."
    _, greeting, take = opened(earlier)
    again = HeadStart(meeting.b)
    assert is_frame(again.answer(greeting)), "a signal that comes again is answered"
    stream = arriving(meeting, take)
    with pytest.raises(ProofFailed):
        await accept(meeting.b, again)
    assert stream.closed


@pytest.mark.parametrize(
    "greeting",
    [
        handshakes(initiator=MALLORY)[0].opener(),
        handshakes(attempt_id="b0" * 16)[0].opener(),
        handshakes()[0].take(),
        handshakes()[0].close(),
        bytes(FRAME_BYTES),
        handshakes()[0].opener() + b"no TLS at all",
    ],
    ids=["a stranger", "another attempt", "another frame", "a farewell", "garbage", "no tunnel"],
)
@virtual_time
async def test_a_greeting_that_is_not_the_peers_is_not_answered(greeting: bytes) -> None:
    meeting = Meeting(DirectConnect)
    with pytest.raises(ProofFailed):
        HeadStart(meeting.b).answer(greeting)
