"""The TCP punch between two nodes in memory, behind routers that drop or refuse what was not asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from fake_network import DELAY_S, FakeNetwork, FakeStream, Internet
from fake_node import ALICE, BOB, FakeNode, contexts, node
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Combo, Reason, RouteType, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.net.interfaces import ConnectRefused, Pipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.tcp_punch import TcpPunch
from warpfleet.plugins.tcp_punch.messages import Answer, Offer
from warpfleet.plugins.tcp_punch.plan import WINDOWS_OPEN, local_ports

COMBO = Combo("tcp_punch", 4, RouteType.EXT)
KEEPING = NatBehaviour(
    mapping=Mapping.EIM, filtering=Filtering.APDF, port_assignment=PortAssignment.PRESERVING, translated=True
)
MOVING = replace(KEEPING, port_assignment=PortAssignment.RANDOM)
OPEN = NatBehaviour(mapping=Mapping.EIM, filtering=Filtering.EIF, translated=False)
SIGNAL_S = DELAY_S
FIRST_MEETING_S = 1.0  # windows come later


class Punch:
    """One attempt between Alice and Bob; his side runs as soon as the offer is there."""

    def __init__(self, alice: NatBehaviour, bob: NatBehaviour, *, refuses: bool = False, bob_ahead_us: int = 0) -> None:
        self.internet = Internet()
        self.nodes = [node(ALICE, self.internet, "203.0.113.1"), node(BOB, self.internet, "203.0.113.2")]
        for number, (one, nat) in enumerate(zip(self.nodes, (alice, bob), strict=True)):
            one.view = replace(one.view, nat={4: nat})
            one.network.filters, one.network.refuses = nat is not OPEN, refuses
            one.network.shift = number + 1 if nat is MOVING else 0
        self.nodes[1].clock_ahead_us = bob_ahead_us
        self.responding: asyncio.Task[Pipe | None] | None = None
        self.a, self.b = contexts(self.alice, self.bob, COMBO, opened=self._open)

    @property
    def alice(self) -> FakeNode:
        return self.nodes[0]

    @property
    def bob(self) -> FakeNode:
        return self.nodes[1]

    def _open(self, context: AttemptContext) -> None:
        self.responding = asyncio.create_task(TcpPunch(context).run())

    async def connects(self) -> None:
        """Both get one pipe, over which bytes go both ways; nothing else stays open."""
        async with asyncio.timeout(10):
            mine = await TcpPunch(self.a).run()
            assert self.responding
            theirs = await self.responding
        assert mine
        assert theirs
        assert (mine.path.local.port, theirs.path.local.port) == (
            theirs.path.remote.port - self.alice.network.shift,
            theirs.path.local.port,
        )
        for one, other in ((mine, theirs), (theirs, mine)):
            await one.send(b"hello")
            assert await other.recv() == b"hello"
        await asyncio.gather(mine.close(), theirs.close())
        self.nothing_is_open()

    def nothing_is_open(self) -> None:
        assert self.internet.open_sockets() == []
        assert all(listener.closed for listener in self.internet.listeners.values())


@virtual_time
@pytest.mark.parametrize("alice", [KEEPING, MOVING, OPEN])
@pytest.mark.parametrize("bob", [KEEPING, MOVING, OPEN])
@pytest.mark.parametrize("refuses", [False, True])
async def test_the_first_syns_cross_between_filters(alice: NatBehaviour, bob: NatBehaviour, refuses: bool) -> None:
    punch = Punch(alice, bob, refuses=refuses)
    await punch.connects()
    assert now_s() < FIRST_MEETING_S
    assert punch.internet.spoilt == set()


@virtual_time
async def test_ports_that_no_nat_changes_need_no_stun_server() -> None:
    punch = Punch(KEEPING, OPEN)
    punch.alice.network.stun = punch.bob.network.stun = TimeoutError()
    await punch.connects()
    assert now_s() < 2 * SIGNAL_S + 12 * DELAY_S


@virtual_time
@pytest.mark.parametrize("ahead_us", [-800_000, -100_000, 100_000, 800_000])
async def test_clocks_that_are_off_cost_a_second_meeting_where_routers_refuse(ahead_us: int) -> None:
    punch = Punch(KEEPING, MOVING, refuses=True, bob_ahead_us=ahead_us)
    await punch.connects()
    assert now_s() < 5


@virtual_time
@pytest.mark.parametrize("ahead_us", [-5_000_000, -100_000, 100_000, 5_000_000])
async def test_clocks_that_are_off_do_not_matter_where_routers_drop(ahead_us: int) -> None:
    punch = Punch(KEEPING, KEEPING, bob_ahead_us=ahead_us)
    await punch.connects()
    assert now_s() < FIRST_MEETING_S


@virtual_time
@pytest.mark.parametrize("refuses", [False, True])
async def test_without_an_answer_the_sides_meet_at_a_boundary_of_the_clock(refuses: bool) -> None:
    punch = Punch(KEEPING, KEEPING, refuses=refuses)
    punch.b.post = lambda _message: None
    await punch.connects()
    assert now_s() < 3


@virtual_time
async def test_a_port_that_is_taken_is_not_waited_for() -> None:
    punch = Punch(KEEPING, KEEPING)
    taken = local_ports(punch.a.attempt_id, Side.INITIATOR, 0)[0]
    punch.alice.network.listen_error = lambda endpoint: OSError("in use") if endpoint.port == taken else None
    await punch.connects()
    assert now_s() < FIRST_MEETING_S


@virtual_time
async def test_a_port_that_the_nat_changes_after_all_is_told_when_it_is_known() -> None:
    punch = Punch(KEEPING, KEEPING)
    punch.alice.network.shift = 5
    await punch.connects()
    assert now_s() < FIRST_MEETING_S


@virtual_time
@pytest.mark.parametrize("behind", [MOVING, NatBehaviour()])
async def test_without_a_stun_server_an_unknown_port_is_a_failure(behind: NatBehaviour) -> None:
    punch = Punch(behind, KEEPING)
    punch.alice.network.stun = TimeoutError()
    with pytest.raises(AttemptFailed) as failed:
        await TcpPunch(punch.a).run()
    assert failed.value.reason is Reason.STUN_FAILED
    assert punch.responding
    punch.responding.cancel()
    await asyncio.gather(punch.responding, return_exceptions=True)
    punch.nothing_is_open()


@virtual_time
async def test_a_stun_server_that_falls_silent_ends_no_punch_that_has_begun() -> None:
    punch = Punch(MOVING, KEEPING)
    punch.b.post = lambda _message: None
    running = asyncio.create_task(TcpPunch(punch.a).run())
    await asyncio.sleep(0.2)
    punch.alice.network.stun = TimeoutError()
    assert not (await asyncio.wait({running}, timeout=5))[0]
    running.cancel()
    assert punch.responding
    punch.responding.cancel()
    await asyncio.gather(running, punch.responding, return_exceptions=True)
    punch.nothing_is_open()


def offer(context: AttemptContext, *candidates: str) -> AttemptMessage:
    head = {"attempt_id": context.attempt_id, "af": 4, "route": RouteType.EXT}
    at_us = context.started_at_us
    return Offer(**head, started_at_us=at_us, meeting=0, candidates=candidates, sent_at_us=at_us)


@virtual_time
@pytest.mark.parametrize("target", ["10.0.0.1:53", "127.0.0.1:22", "169.254.169.254:80"])
async def test_a_peer_cannot_make_a_punch_dial_where_the_route_does_not_lead(target: str) -> None:
    punch = Punch(KEEPING, KEEPING)
    punch.b.opening = offer(punch.b, target)
    with pytest.raises(AttemptFailed) as failed:
        await TcpPunch(punch.b).run()
    assert failed.value.reason is Reason.TARGET_FORBIDDEN
    assert punch.bob.network.dialled == []
    punch.nothing_is_open()


async def strangers(punch: Punch, ip: str, count: int) -> list[FakeStream]:
    """Bob's ends of streams from an address to his listener that say nothing."""
    caller = FakeNetwork(punch.internet, ip)
    port = local_ports(punch.b.attempt_id, Side.RESPONDER, 0)[0]
    dials = (caller.connect_tcp(Endpoint("203.0.113.2", port), timeout_s=1) for _ in range(count))
    return [stream.other for stream in await asyncio.gather(*dials) if stream.other]


async def every_ms(knock: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(_refused_or_not(knock))
            await asyncio.sleep(0.001)


async def _refused_or_not(knock: Callable[[], Awaitable[object]]) -> None:
    with suppress(ConnectRefused):  # Bob does not listen yet
        await knock()


@virtual_time
async def test_few_strangers_are_heard_and_not_for_long() -> None:
    punch = Punch(KEEPING, OPEN)
    punch.b.opening = offer(punch.b, "203.0.113.1:50000")
    responding = asyncio.create_task(TcpPunch(punch.b).run())
    await asyncio.sleep(0.2)
    from_elsewhere = await strangers(punch, "203.0.113.66", 20)
    from_her_address = await strangers(punch, "203.0.113.1", 20)
    await asyncio.sleep(2 * DELAY_S)
    assert all(stream.closed for stream in from_elsewhere)
    assert sum(not stream.closed for stream in from_her_address) == 8
    await asyncio.sleep(3)
    assert all(stream.closed for stream in from_her_address)
    responding.cancel()
    await asyncio.gather(responding, return_exceptions=True)


@virtual_time
async def test_strangers_hold_nothing_up() -> None:
    punch = Punch(KEEPING, OPEN)
    crowd = asyncio.create_task(every_ms(lambda: strangers(punch, "203.0.113.66", 1)))
    mine = await TcpPunch(punch.a).run()
    assert now_s() < FIRST_MEETING_S
    crowd.cancel()
    await asyncio.gather(crowd, return_exceptions=True)
    assert punch.responding
    theirs = await punch.responding
    assert mine
    assert theirs
    assert (mine.path.remote.port, theirs.path.remote.ip) == (theirs.path.local.port, "203.0.113.1")
    await asyncio.gather(mine.close(), theirs.close())


@virtual_time
@pytest.mark.parametrize("after_steps", range(1, 24))
async def test_whenever_it_is_cancelled_nothing_stays_open(after_steps: int) -> None:
    punch = Punch(KEEPING, MOVING)
    running = asyncio.create_task(TcpPunch(punch.a).run())
    await asyncio.sleep(after_steps * DELAY_S / 2)
    tasks = [running, *([punch.responding] if punch.responding else [])]
    for task in tasks:
        task.cancel()
    for reached in await asyncio.gather(*tasks, return_exceptions=True):
        if reached is not None and not isinstance(reached, BaseException):
            await reached.close()
    await asyncio.sleep(1)
    if punch.responding and punch.responding not in tasks:
        punch.responding.cancel()
        await asyncio.gather(punch.responding, return_exceptions=True)
    punch.nothing_is_open()


@virtual_time
async def test_word_of_a_meeting_that_is_not_near_opens_none() -> None:
    punch = Punch(KEEPING, OPEN)
    punch.b.opening = offer(punch.b, "203.0.113.1:50000")
    responding = asyncio.create_task(TcpPunch(punch.b).run())
    far = offer(punch.b, "203.0.113.1:50001").model_copy(update={"meeting": 7})
    punch.b.inbox.put_message(far)
    await asyncio.sleep(0.2)
    assert len(punch.internet.listeners) == 1
    responding.cancel()
    await asyncio.gather(responding, return_exceptions=True)
    punch.nothing_is_open()


@virtual_time
async def test_a_long_attempt_keeps_few_meetings_open() -> None:
    punch = Punch(KEEPING, OPEN)
    punch.b.opening = offer(punch.b, "203.0.113.1:50000")
    responding = asyncio.create_task(TcpPunch(punch.b).run())
    punch.internet.loses = lambda *_: True
    open_at_once = 0
    for _ in range(60):
        await asyncio.sleep(1)
        open_at_once = max(open_at_once, sum(not each.closed for each in punch.internet.listeners.values()))
    assert open_at_once == 1 + WINDOWS_OPEN
    responding.cancel()
    await asyncio.gather(responding, return_exceptions=True)
    punch.nothing_is_open()


@virtual_time
async def test_a_peer_that_tells_ever_more_endpoints_is_not_followed() -> None:
    punch = Punch(KEEPING, OPEN)
    punch.b.opening = offer(punch.b)
    responding = asyncio.create_task(TcpPunch(punch.b).run())
    for port in range(50_000, 50_080, 8):
        punch.b.inbox.put_message(offer(punch.b, *(f"203.0.113.1:{port + i}" for i in range(8))))
    await asyncio.sleep(0.2)
    assert len(punch.bob.network.dialled) == 16
    responding.cancel()
    await asyncio.gather(responding, return_exceptions=True)
    punch.nothing_is_open()


def test_the_messages_tell_who_opens() -> None:
    assert (Offer.opens, Answer.opens) == (True, False)
