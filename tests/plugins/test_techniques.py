"""The techniques that agree over the signal channel, each between two nodes in memory."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fake_nat import NattedNetwork, drawn, sequence
from fake_network import DELAY_S, STUN_SERVER, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, STARTED_AT_US, FakeNode, contexts, node, view
from virtual_time import now_s, virtual_time
from warpfleet.configs.topology import PRESETS
from warpfleet.core.combo import Combo, Reason, RouteType
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.identity import Identity
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour
from warpfleet.core.port_range import WHOLE, PortRange
from warpfleet.core.targets import USUAL_ALLOWANCE, loopback_alias
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, is_frame
from warpfleet.net.interfaces import ConnectRefused, Pipe, RelayRefused, Unreachable
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.direct_connect import DirectConnect
from warpfleet.plugins.fan_out import FanOut
from warpfleet.plugins.get_addr import GetAddress
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.random_probe import RandomProbe
from warpfleet.plugins.random_probe.messages import Answer as ProbeAnswer
from warpfleet.plugins.random_probe.messages import Offer as ProbeOffer
from warpfleet.plugins.random_probe.plan import MAPPINGS_MAX, PROBES_MAX
from warpfleet.plugins.return_addr import ReturnAddress
from warpfleet.plugins.reverse_connect import ReverseConnect
from warpfleet.plugins.reverse_connect.messages import DialMe
from warpfleet.plugins.room import Room
from warpfleet.plugins.turn import Turn
from warpfleet.plugins.turn.messages import RelayAnswer, RelayOffer
from warpfleet.plugins.udp_punch import UdpPunch
from warpfleet.plugins.udp_punch.messages import Answer, Offer
from warpfleet.plugins.udp_punch.plan import CANDIDATES_MAX, RUN_SOCKETS, ahead, behind, candidates

EXTERNAL = {"alice": "203.0.113.1", "bob": "203.0.113.2"}
HEAD = {"attempt_id": ATTEMPT_ID, "af": 4, "route": RouteType.EXT, "started_at_us": STARTED_AT_US}
EXT = RouteType.EXT


def two(internet: Internet) -> tuple[FakeNode, FakeNode]:
    return node(ALICE, internet, "203.0.113.1"), node(BOB, internet, "203.0.113.2")


class Meeting:
    """One attempt: Alice's side runs at once, Bob's as soon as the opening message is there."""

    def __init__(self, technique: type[Strategy], alice: FakeNode, bob: FakeNode, route: RouteType = EXT) -> None:
        self.technique = technique
        self.responding: asyncio.Task[Pipe | None] | None = None
        combo = Combo(technique.name, 4, route)
        self.a, self.b = contexts(
            alice, bob, combo, opened=self._open, routes=technique.reaches or None, allowance=technique.allowance
        )

    async def run(self, context: AttemptContext) -> Pipe | None:
        """Run one side."""
        factory = await self.technique.setup(context.node)
        assert factory
        return await factory(context).run()

    def _open(self, context: AttemptContext) -> None:
        self.responding = asyncio.create_task(self.run(context))

    async def pipes(self) -> tuple[Pipe, Pipe]:
        async with asyncio.timeout(20):
            mine = await self.run(self.a)
            assert self.responding
            theirs = await self.responding
        assert mine
        assert theirs
        return mine, theirs


async def carries(mine: Pipe, theirs: Pipe) -> None:
    """Both directions work, and nothing else is left open."""
    await mine.send(b"ping")
    assert await theirs.recv() == b"ping"
    await theirs.send(b"pong")
    assert await mine.recv() == b"pong"
    await asyncio.gather(mine.close(), theirs.close())


def reason_of(error: pytest.ExceptionInfo[AttemptFailed]) -> Reason:
    return error.value.reason


# udp_punch


@virtual_time
@pytest.mark.parametrize("route", [EXT, RouteType.NIC])
async def test_a_punch_opens_a_path(route: RouteType) -> None:
    internet = Internet()
    mine, theirs = await Meeting(UdpPunch, *two(internet), route).pipes()
    assert (mine.peer, mine.path.relayed, theirs.path.relayed) == ("bob", False, False)
    await carries(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
async def test_a_pipe_that_has_won_is_not_held_to_the_budget_of_an_attempt() -> None:
    mine, theirs = await Meeting(UdpPunch, *two(Internet())).pipes()
    size_bytes = 3 * USUAL_ALLOWANCE.packets_burst * 1000
    began_s = now_s()
    await mine.send(bytes(size_bytes))
    await mine.send_eof()
    assert sum([len(chunk) async for chunk in theirs]) == size_bytes
    assert now_s() - began_s < 1, "an attempt may send 200 packets a second"


@virtual_time
async def test_a_punch_without_stun_fails_and_closes_its_socket() -> None:
    internet = Internet()
    alice, bob = two(internet)
    alice.network.stun = TimeoutError()
    meeting = Meeting(UdpPunch, alice, bob)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.a)
    assert reason_of(failed) is Reason.STUN_FAILED
    assert internet.open_sockets() == []


@virtual_time
async def test_a_punch_whose_offer_is_not_answered_waits_for_its_deadline_only() -> None:
    internet = Internet()
    meeting = Meeting(UdpPunch, *two(internet))
    meeting.a.post = lambda _message: None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7):
            await meeting.run(meeting.a)
    assert now_s() == pytest.approx(7)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("target", ["10.0.0.1:53", "127.0.0.1:22", "169.254.169.254:80"])
async def test_a_peer_cannot_make_a_punch_send_where_the_route_does_not_lead(target: str) -> None:
    internet = Internet()
    victim = FakeUdp(internet, Endpoint.parse(target))
    meeting = Meeting(UdpPunch, *two(internet))
    meeting.b.opening = Offer(**HEAD, candidates=(target,))
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.b)
    assert reason_of(failed) is Reason.TARGET_FORBIDDEN
    assert internet.open_sockets() == [victim]


@pytest.mark.parametrize(
    ("route", "found"),
    [
        (EXT, ["198.51.100.7:61000"]),
        (RouteType.NIC, ["192.168.1.2:4000", "203.0.113.5:4000"]),
    ],
)
def test_the_candidates_of_each_route(route: RouteType, found: list[str]) -> None:
    ips = ("127.0.0.1", "192.168.1.2", "169.254.1.1", "203.0.113.5", "2001:db8::1")
    interfaces = [Interface("e", ip, 24) for ip in ips]
    own = candidates(route, 4000, interfaces, Endpoint("198.51.100.7", 61000), 4)
    assert [str(endpoint) for endpoint in own] == found
    assert candidates(EXT, 4000, interfaces, None, 4) == []


def natted(identity: Identity, internet: Internet, preset: str, ports: Iterator[int]) -> FakeNode:
    """A node behind a NAT that hands out these ports."""
    made = node(identity, internet, EXTERNAL[identity.name])
    nat = PRESETS[preset]
    assert nat
    independent = nat.mapping is Mapping.EIM
    made.network = NattedNetwork(internet, EXTERNAL[identity.name], ports, independent=independent)
    made.view = replace(made.view, nat={4: nat.behaviour})
    return made


def sequential(identity: Identity, internet: Internet, first: int, delta: int = 1, **others: int) -> FakeNode:
    """A node behind a sequential NAT, and what others behind it do."""
    made = natted(identity, internet, "symmetric_sequential", sequence(first, delta))
    made.view.nat[4] = replace(made.view.nat[4], port_delta=delta)
    for name, count in others.items():
        setattr(made.network, name, count)
    return made


def port_filtered(identity: Identity, internet: Internet) -> FakeNode:
    """A node whose endpoint is the same for all destinations."""
    return natted(identity, internet, "eim_random_ports", sequence(50_000))


async def meets(technique: type[Strategy], internet: Internet, alice: FakeNode, bob: FakeNode) -> None:
    """They connect, and soon nothing is left open but the pipe."""
    mine, theirs = await Meeting(technique, alice, bob).pipes()
    assert len(internet.open_sockets()) == 2
    await carries(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("others", [0, 9, 100])
@pytest.mark.parametrize(("first", "delta"), [(20_000, 1), (65_530, 1), (1_030, -2), (65_000, 512)])
async def test_a_punch_meets_a_sequential_initiator(first: int, delta: int, others: int) -> None:
    internet = Internet()
    alice = sequential(ALICE, internet, first, delta, others_after=others)
    await meets(UdpPunch, internet, alice, port_filtered(BOB, internet))
    assert now_s() < 0.5


@virtual_time
@pytest.mark.parametrize("others", [0, 3, 7])
@pytest.mark.parametrize(("first", "delta"), [(20_000, 1), (65_535, 1), (1_030, -2), (65_000, 512)])
async def test_a_punch_meets_a_sequential_responder(first: int, delta: int, others: int) -> None:
    internet = Internet()
    bob = sequential(BOB, internet, first, delta, others_before=others)
    await meets(UdpPunch, internet, port_filtered(ALICE, internet), bob)
    assert now_s() < 0.5


@virtual_time
@pytest.mark.parametrize("others", [0, 9, 15])
async def test_two_sequential_ends_meet(others: int) -> None:
    internet = Internet()
    alice = sequential(ALICE, internet, 65_530, others_after=others)
    await meets(UdpPunch, internet, alice, sequential(BOB, internet, 30_000, -4, others_after=99))
    assert now_s() < 0.5


@virtual_time
async def test_a_run_costs_no_more_time_than_a_plain_punch() -> None:
    internet = Internet()
    await Meeting(UdpPunch, sequential(ALICE, internet, 20_000), sequential(BOB, internet, 30_000)).pipes()
    assert now_s() == pytest.approx(11 * DELAY_S), "STUN, signal, STUN, signal, HELLO, PROOF, TAKE, AGREED, SEAL"


@virtual_time
async def test_a_run_that_is_lost_on_its_way_is_met_all_the_same() -> None:
    internet = Internet(loses=lambda _data, _source, target: target != STUN_SERVER and now_s() < 1)
    await meets(UdpPunch, internet, sequential(ALICE, internet, 20_000), sequential(BOB, internet, 30_000))


@virtual_time
async def test_towards_an_easy_peer_a_sequential_initiator_predicts_nothing() -> None:
    internet = Internet()
    alice, bob = sequential(ALICE, internet, 20_000), node(BOB, internet, EXTERNAL["bob"])
    bob.view = replace(bob.view, nat={4: NatBehaviour(translated=False, filtering=Filtering.EIF)})
    await meets(UdpPunch, internet, alice, bob)
    assert len(internet.udp) == 2


@virtual_time
@pytest.mark.parametrize("both", [True, False])
async def test_attempts_of_one_node_keep_out_of_each_others_predictions(both: bool) -> None:
    internet = Internet()
    alice = sequential(ALICE, internet, 20_000) if both else port_filtered(ALICE, internet)
    bob = sequential(BOB, internet, 30_000)
    initiate, respond = await UdpPunch.setup(alice), await UdpPunch.setup(bob)
    responding: list[asyncio.Task[Pipe | None]] = []

    def opened(context: AttemptContext) -> None:
        responding.append(asyncio.create_task(respond(context).run()))

    async def connect() -> Pipe | None:
        a, _ = contexts(alice, bob, Combo("udp_punch", 4, EXT), opened=opened)
        return await initiate(a).run()

    async with asyncio.timeout(5):
        pipes = await asyncio.gather(*(connect() for _ in range(10)))
        others = await asyncio.gather(*responding)
    assert len({pipe.path.remote for pipe in [*pipes, *others] if pipe}) == 20


@virtual_time
@pytest.mark.parametrize("side", ["initiator", "responder"])
async def test_a_prediction_without_stun_fails_and_closes_its_sockets(side: str) -> None:
    internet = Internet()
    meeting = Meeting(UdpPunch, sequential(ALICE, internet, 20_000), sequential(BOB, internet, 30_000))
    context = meeting.a if side == "initiator" else meeting.b
    context.node.network.stun = TimeoutError()  # type: ignore[attr-defined]
    meeting.b.opening = Offer(**HEAD, candidates=("203.0.113.1:2000",))
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(context)
    assert reason_of(failed) is Reason.STUN_FAILED
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize(
    ("ours", "theirs", "ahead_of_the_offer"),
    [
        ("addr_restricted", "symmetric_random", [Endpoint(EXTERNAL["bob"], 9)]),
        ("addr_restricted", "symmetric_sequential", [Endpoint(EXTERNAL["bob"], 9)]),
        ("addr_restricted", "port_restricted", []),
        ("full_cone", "symmetric_random", []),
    ],
)
async def test_an_address_filter_is_opened_for_a_peer_whose_port_is_hidden(
    ours: str, theirs: str, ahead_of_the_offer: list[Endpoint]
) -> None:
    internet = Internet()
    alice, bob = natted(ALICE, internet, ours, sequence(20_000)), natted(BOB, internet, theirs, sequence(30_000))
    meeting = Meeting(UdpPunch, alice, bob)
    meeting.a.theirs = bob.view
    sent_before: list[list[Endpoint]] = []

    def noting(_: AttemptMessage) -> None:
        sent_before.append([remote for socket in internet.udp for _, remote in socket.sent])

    meeting.a.post = noting
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await meeting.run(meeting.a)
    assert sent_before == [ahead_of_the_offer]


@virtual_time
async def test_the_run_is_opened_although_the_answer_is_late() -> None:
    internet = Internet()
    meeting = Meeting(UdpPunch, sequential(ALICE, internet, 20_000), sequential(BOB, internet, 30_000))
    post = meeting.a.post

    def late(message: AttemptMessage) -> None:
        asyncio.get_running_loop().call_later(5, post, message)

    meeting.a.post = late
    await carries(*await meeting.pipes())
    assert now_s() == pytest.approx(5, abs=0.5)


@virtual_time
async def test_other_attempts_wait_two_seconds_for_an_answer_that_is_late() -> None:
    internet = Internet()
    alice, bob = sequential(ALICE, internet, 20_000), sequential(BOB, internet, 30_000)
    silent, other = Meeting(UdpPunch, alice, bob), Meeting(UdpPunch, alice, bob)
    silent.a.post = lambda _message: None
    factory = await UdpPunch.setup(alice)
    waiting = asyncio.create_task(factory(silent.a).run())
    await asyncio.sleep(0)
    assert await factory(other.a).run()
    assert now_s() == pytest.approx(2, abs=0.5)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


LATEST = Endpoint("198.51.100.7", 61_000)
PORT, STEP = st.integers(1024, 65_535), st.integers(-1000, 1000).filter(bool)


@given(PORT, STEP, st.integers(0, RUN_SOCKETS * CANDIDATES_MAX - 1))
def test_a_run_covers_exactly_one_of_the_ports_ahead(port: int, delta: int, others: int) -> None:
    taken = sequence(port, delta)
    run = list(islice(taken, 1 + others, 1 + others + RUN_SOCKETS))
    found = ahead(LATEST._replace(port=port), delta)
    assert len(found) == CANDIDATES_MAX
    assert sum(candidate.port in run for candidate in found) >= 1
    if len(set(islice(sequence(port, delta), RUN_SOCKETS * (CANDIDATES_MAX + 1)))) == RUN_SOCKETS * (
        CANDIDATES_MAX + 1
    ):
        assert sum(candidate.port in run for candidate in found) == 1


@given(PORT, STEP, st.integers(0, CANDIDATES_MAX - 1))
def test_what_was_opened_before_is_among_the_ports_behind(port: int, delta: int, others: int) -> None:
    ports = list(islice(sequence(port, delta), others + 2))
    found = behind(LATEST._replace(port=ports[-1]), delta)
    assert found[others] == LATEST._replace(port=port)
    assert len(found) == CANDIDATES_MAX


def test_ports_ahead_and_behind_in_plain_numbers() -> None:
    assert [e.port for e in ahead(LATEST, 1)] == [61_016, 61_032, 61_048, 61_064, 61_080, 61_096, 61_112, 61_128]
    assert [e.port for e in behind(LATEST, -2)] == [61_002, 61_004, 61_006, 61_008, 61_010, 61_012, 61_014, 61_016]
    assert {e.ip for e in ahead(LATEST, 1) + behind(LATEST, 1)} == {LATEST.ip}


@pytest.mark.parametrize("text", ["", "203.0.113.1", "203.0.113.1:0", "203.0.113.1:65536", "host:80", "1.2.3.4:x"])
def test_an_endpoint_that_is_none_is_refused_when_the_message_is_read(text: str) -> None:
    makers: list[tuple[type[AttemptMessage], dict[str, object]]] = [
        (Offer, {"candidates": (text,)}),
        (Answer, {"candidates": (text,)}),
        (DialMe, {"endpoints": (text,)}),
        (RelayOffer, {"relayed": text, "hello": "00" * FRAME_BYTES}),
        (RelayAnswer, {"endpoint": text}),
    ]
    for kind, fields in makers:
        with pytest.raises(ValidationError):
            kind.model_validate(HEAD | fields)


@pytest.mark.parametrize(("kind", "name"), [(Offer, "candidates"), (Answer, "candidates"), (DialMe, "endpoints")])
def test_more_endpoints_than_a_peer_has_are_refused(kind: type[AttemptMessage], name: str) -> None:
    texts = [f"203.0.113.1:{port}" for port in range(1, 10)]
    kind.model_validate(HEAD | {name: texts[:8]})
    with pytest.raises(ValidationError):
        kind.model_validate(HEAD | {name: texts})


# random_probe


BLOCK = PortRange(40_000, 41_023)


def bridged(
    internet: Internet,
    seed: int,
    *,
    random_initiator: bool,
    block: PortRange = WHOLE,
    known: PortRange | None = None,
) -> tuple[FakeNode, FakeNode]:
    """A node with random ports of a block, and what is known of that; and a node whose port stays."""
    one, other = (ALICE, BOB) if random_initiator else (BOB, ALICE)
    unpredictable = natted(one, internet, "symmetric_random", drawn(random.Random(seed), block))
    unpredictable.view.nat[4] = replace(unpredictable.view.nat[4], port_range=known)
    steady = port_filtered(other, internet)
    return (unpredictable, steady) if random_initiator else (steady, unpredictable)


def packets(internet: Internet) -> int:
    """All that was sent so far."""
    return sum(socket.packets_sent for socket in internet.udp)


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_many_mappings_and_many_probes_meet(random_initiator: bool, seed: int) -> None:
    internet = Internet()
    await meets(RandomProbe, internet, *bridged(internet, seed, random_initiator=random_initiator))
    [probing] = [socket for socket in internet.udp if socket.source_towards(STUN_SERVER).port == 50_000]
    assert 1 < len(internet.udp) - 1 <= MAPPINGS_MAX
    assert probing.packets_sent < PROBES_MAX + 20


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("seed", range(10))
async def test_in_a_block_that_is_known_they_meet_soon(random_initiator: bool, seed: int) -> None:
    internet = Internet()
    ends = bridged(internet, seed, random_initiator=random_initiator, block=BLOCK, known=BLOCK)
    await meets(RandomProbe, internet, *ends)
    assert packets(internet) < 250


@virtual_time
@pytest.mark.parametrize("seed", range(3))
async def test_in_a_block_that_is_no_more_they_meet_all_the_same(seed: int) -> None:
    internet = Internet()
    await meets(RandomProbe, internet, *bridged(internet, seed, random_initiator=True, known=BLOCK))


@virtual_time
async def test_a_stranger_that_answers_a_probe_is_no_hit() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=False)

    def echoed_with_another_signature(data: bytes, source: Endpoint, target: Endpoint) -> bool:
        if source.ip == EXTERNAL["alice"] and len(data) == FRAME_BYTES:
            internet.carry(data[:-1] + bytes([data[-1] ^ 1]), target, source)
        return False

    internet.loses = echoed_with_another_signature
    mine, theirs = await Meeting(RandomProbe, alice, bob).pipes()
    await carries(mine, theirs)


@virtual_time
async def test_probes_that_hit_nothing_are_bounded_and_try_no_port_twice() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=False)
    meeting = Meeting(RandomProbe, alice, bob)
    meeting.a.inbox.put_message(ProbeAnswer(**HEAD, address=EXTERNAL["bob"], port=None))
    meeting.a.post = lambda _message: None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(15):
            await meeting.run(meeting.a)
    [socket] = internet.udp
    ports = [target.port for _, target in socket.sent]
    assert len(ports) == len(set(ports)) == PROBES_MAX
    assert socket.closed


@virtual_time
async def test_mappings_that_nobody_probes_are_bounded() -> None:
    internet = Internet()
    meeting = Meeting(RandomProbe, *bridged(internet, 1, random_initiator=True))
    meeting.a.inbox.put_message(ProbeAnswer(**HEAD, address=EXTERNAL["bob"], port=50_000))
    meeting.a.post = lambda _message: None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(15):
            await meeting.run(meeting.a)
    assert len(internet.udp) == packets(internet) == MAPPINGS_MAX
    assert internet.open_sockets() == []


@virtual_time
async def test_attempts_that_share_a_room_wait_for_one_another() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=True)
    room = Room(MAPPINGS_MAX + 1)
    meetings = [Meeting(RandomProbe, alice, bob) for _ in range(3)]
    for meeting in meetings:
        meeting.a.room = room
        meeting.a.post = lambda _message: None
        meeting.a.inbox.put_message(ProbeAnswer(**HEAD, address=EXTERNAL["bob"], port=50_000))
    attempts = [asyncio.create_task(meeting.run(meeting.a)) for meeting in meetings]
    for number, attempt in enumerate(attempts):
        await asyncio.sleep(5)
        assert len(internet.open_sockets()) == MAPPINGS_MAX
        assert len(internet.udp) == (number + 1) * MAPPINGS_MAX
        attempt.cancel()
        await asyncio.wait([attempt])
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_an_attempt_that_is_cancelled_closes_every_socket(random_initiator: bool) -> None:
    internet = Internet(loses=lambda _data, _source, _target: True)
    meeting = Meeting(RandomProbe, *bridged(internet, 1, random_initiator=random_initiator))
    initiating = asyncio.create_task(meeting.run(meeting.a))
    await asyncio.sleep(5)
    assert meeting.responding
    assert len(internet.open_sockets()) == 1 + MAPPINGS_MAX
    for running in (initiating, meeting.responding):
        running.cancel()
    await asyncio.gather(initiating, meeting.responding, return_exceptions=True)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("port", [None, 53])
@pytest.mark.parametrize("target", ["10.0.0.1", "127.0.0.1", "169.254.169.254"])
async def test_a_peer_cannot_make_us_probe_where_the_route_does_not_lead(target: str, port: int | None) -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=port is None)
    meeting = Meeting(RandomProbe, alice, bob)
    meeting.b.opening = ProbeOffer(**HEAD, address=target, port=port)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.b)
    assert reason_of(failed) is Reason.TARGET_FORBIDDEN
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("kind", ["symmetric_random", "port_restricted"])
async def test_two_ends_of_one_kind_do_not_probe(kind: str) -> None:
    internet = Internet()
    ends = [natted(identity, internet, kind, sequence(50_000)) for identity in (ALICE, BOB)]
    meeting = Meeting(RandomProbe, *ends)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.a)
    assert reason_of(failed) is Reason.NAT_RULES_OUT
    assert meeting.responding
    with pytest.raises(AttemptFailed):
        await meeting.responding
    assert internet.open_sockets() == []
    assert sum(socket.packets_sent for socket in internet.udp) == 0


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_who_does_not_know_its_external_address_neither_probes_nor_is_probed(random_initiator: bool) -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=random_initiator)
    alice.view = replace(alice.view, external={})
    alice.network.stun = TimeoutError()
    meeting = Meeting(RandomProbe, alice, bob)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.a)
    assert reason_of(failed) is Reason.STUN_FAILED
    assert internet.open_sockets() == []


@virtual_time
async def test_where_sockets_run_out_those_that_were_opened_are_closed() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=True)
    open_udp = alice.network.open_udp

    async def only_a_hundred(af: int, port: int = 0) -> FakeUdp:
        if len(internet.udp) == 100:
            raise OSError("too many open files")
        return await open_udp(af, port)

    alice.network.open_udp = only_a_hundred  # type: ignore[method-assign]
    meeting = Meeting(RandomProbe, alice, bob)
    meeting.a.inbox.put_message(ProbeAnswer(**HEAD, address=EXTERNAL["bob"], port=50_000))
    meeting.a.post = lambda _message: None
    with pytest.raises(OSError, match="too many"):
        await meeting.run(meeting.a)
    assert internet.open_sockets() == []


# reverse_connect


@virtual_time
async def test_the_peer_dials_back() -> None:
    internet = Internet()
    alice, bob = two(internet)
    await DirectConnect.setup(alice)
    mine, theirs = await Meeting(ReverseConnect, alice, bob).pipes()
    assert theirs.path.remote == Endpoint("203.0.113.1", 443)
    assert now_s() == pytest.approx(7 * DELAY_S), "signal, connect, knock, greeting, proof, take"
    await carries(mine, theirs)
    await alice.close()


@virtual_time
@pytest.mark.parametrize("target", ["127.0.0.1:22", "10.0.0.1:80", "192.168.1.1:80", "[::1]:22", "169.254.169.254:80"])
async def test_a_peer_cannot_make_us_dial_where_the_route_does_not_lead(target: str) -> None:
    alice, bob = two(Internet())
    meeting = Meeting(ReverseConnect, alice, bob)
    meeting.b.opening = DialMe(**HEAD, endpoints=(target,))
    with pytest.raises(AttemptFailed) as failed:
        await ReverseConnect(meeting.b).run()
    assert reason_of(failed) is Reason.TARGET_FORBIDDEN
    assert bob.network.dialled == []


@virtual_time
async def test_who_does_not_listen_does_not_ask() -> None:
    alice, bob = two(Internet())
    alice.view = view("alice", "203.0.113.1", ports=())
    meeting = Meeting(ReverseConnect, alice, bob)
    with pytest.raises(AttemptFailed) as failed:
        await ReverseConnect(meeting.a).run()
    assert reason_of(failed) is Reason.NOT_LISTENING


# turn


@virtual_time
async def test_a_relay_joins_both_ends() -> None:
    internet = Internet()
    mine, theirs = await Meeting(Turn, *two(internet)).pipes()
    assert mine.path.local.ip == "198.51.100.9"
    assert theirs.path.local.ip == "203.0.113.2"
    assert mine.path.relayed
    assert theirs.path.relayed
    await carries(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
async def test_where_udp_does_not_get_out_the_responder_has_a_relay_of_its_own_meanwhile() -> None:
    internet = Internet()
    alice, bob = two(internet)
    bob.view = view("bob", "203.0.113.2", nat={4: NatBehaviour(udp=False)})
    bob.network.relay_ip = "198.51.100.10"
    began_s: dict[str, float] = {}

    def slow(who: FakeNode) -> None:
        allocate = who.network.allocate_relay

        async def allocated(af: int, **more: Any) -> Any:
            began_s[who.identity.name] = now_s()
            await asyncio.sleep(1)
            return await allocate(af, **more)

        who.network.allocate_relay = allocated  # type: ignore[method-assign]

    slow(alice)
    slow(bob)
    mine, theirs = await Meeting(Turn, alice, bob).pipes()
    assert (mine.path.local.ip, theirs.path.local.ip) == ("198.51.100.9", "198.51.100.10")
    assert began_s["bob"] - began_s["alice"] == pytest.approx(DELAY_S), "a signal's way later"
    await carries(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RelayRefused("486"), Reason.RELAY_REFUSED),
        (TimeoutError(), Reason.RELAY_UNREACHABLE),
        (ConnectRefused("no"), Reason.RELAY_UNREACHABLE),
        (Unreachable("no"), Reason.RELAY_UNREACHABLE),
    ],
)
async def test_a_relay_that_is_not_to_be_had_says_why(error: Exception, reason: Reason) -> None:
    internet = Internet()
    alice, bob = two(internet)
    alice.network.turn = error
    with pytest.raises(AttemptFailed) as failed:
        await Turn(Meeting(Turn, alice, bob).a).run()
    assert reason_of(failed) is reason
    assert internet.open_sockets() == []


@virtual_time
async def test_the_responder_asks_no_stun_server_and_shows_its_port_with_its_first_frame() -> None:
    internet = Internet()
    alice, bob = two(internet)
    bob.network.stun = TimeoutError()
    meeting = Meeting(Turn, alice, bob)
    seen_as = Endpoint("203.0.113.2", 9)
    open_udp = bob.network.open_udp

    async def behind_a_nat(af: int, port: int = 0) -> FakeUdp:
        socket = await open_udp(af, port)
        socket.local, socket.seen_as = Endpoint("192.168.1.2", socket.local.port), seen_as
        return socket

    bob.network.open_udp = behind_a_nat  # type: ignore[method-assign]
    mine, theirs = await meeting.pipes()
    assert mine.path.remote == seen_as
    await carries(mine, theirs)


@virtual_time
@pytest.mark.parametrize("forged", [False, True])
async def test_the_offer_has_the_greeting_and_where_that_is_none_it_comes_over_the_relay(forged: bool) -> None:
    def greets(data: bytes) -> bool:
        return is_frame(data) and Frame.parse(data).type is FrameType.HELLO

    internet = Internet(loses=lambda data, *_: not forged and greets(data))
    alice, bob = two(internet)
    meeting = Meeting(Turn, alice, bob)
    if forged:
        send = meeting.a.send
        meeting.a.send = lambda kind, **fields: send(kind, **fields | {"hello": "00" * FRAME_BYTES})  # type: ignore[method-assign]
    await carries(*await meeting.pipes())


@virtual_time
async def test_a_responder_that_does_not_know_its_address_gives_up_and_closes() -> None:
    internet = Internet()
    alice, bob = two(internet)
    bob.view = replace(bob.view, external={})
    meeting = Meeting(Turn, alice, bob)
    meeting.b.opening = RelayOffer(**HEAD, relayed="198.51.100.9:4000", hello="00" * FRAME_BYTES)
    with pytest.raises(AttemptFailed) as failed:
        await Turn(meeting.b).run()
    assert reason_of(failed) is Reason.STUN_FAILED
    assert internet.open_sockets() == []


@virtual_time
async def test_an_undelivered_offer_gives_the_allocation_back() -> None:
    internet = Internet()
    meeting = Meeting(Turn, *two(internet))
    meeting.a.post = lambda _message: meeting.a.inbox.put_failure(Reason.PEER_UNAVAILABLE)
    with pytest.raises(AttemptFailed) as failed:
        await Turn(meeting.a).run()
    assert reason_of(failed) is Reason.PEER_UNAVAILABLE
    assert internet.open_sockets() == []


# fan_out


@virtual_time
@pytest.mark.parametrize(
    ("listens_at", "route"),
    [("198.51.100.2", EXT), ("192.168.1.3", RouteType.NIC), (loopback_alias(BOB.public.key), RouteType.LOOPBACK)],
)
async def test_fan_out_wins_over_whichever_address_answers(listens_at: str, route: RouteType) -> None:
    internet = Internet()
    alice, bob = node(ALICE, internet, "192.168.1.2"), node(BOB, internet, "192.168.1.3")
    for who, ip in ((alice, "192.168.1.2"), (bob, "192.168.1.3")):
        listeners = (Endpoint(ip, 443), Endpoint(loopback_alias(who.identity.public.key), 443))
        at_home = view(who.name, ip, machine="one box")
        who.view = replace(at_home, external={4: "198.51.100.2"}, listeners=listeners)
    bob.network.ip = listens_at
    listener = await bob.network.listen_tcp(Endpoint("0.0.0.0", 443))
    meeting = Meeting(FanOut, alice, bob)

    async def serve() -> None:
        stream = await listener.accept()
        meeting.b.inbox.put_stream(InboundStream(stream, await stream.read_exactly(FRAME_BYTES)))

    bob.spawn(serve())
    async with asyncio.timeout(5):
        pipe = (await asyncio.gather(FanOut(meeting.a).run(), FanOut(meeting.b).run()))[0]
    assert meeting.a.combo == Combo("fan_out", 4, route)
    assert pipe.path.remote.ip == listens_at
    await bob.close()


# get_addr, return_addr


@virtual_time
async def test_a_record_is_asked_for_and_learnt() -> None:
    alice, bob = two(Internet())
    a, _ = contexts(alice, bob, Combo("get_addr", 4, EXT), opened=lambda b: bob.spawn(ReturnAddress(b).run()))
    async with asyncio.timeout(5):
        assert await GetAddress(a).run() is None
    assert alice.learned == [("bob", b"record of bob")]
    assert now_s() == pytest.approx(2 * DELAY_S)
