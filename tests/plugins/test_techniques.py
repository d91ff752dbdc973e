"""The techniques that agree over the signal channel, each between two nodes in memory."""

import asyncio
from dataclasses import replace

import pytest
from pydantic import ValidationError

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, STARTED_AT_US, FakeNode, contexts, node, view
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Combo, Reason, RouteType
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.nat import NatBehaviour
from warpfleet.core.targets import loopback_alias
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectRefused, Pipe, RelayRefused, Unreachable
from warpfleet.plugins.contract import AttemptContext, AttemptFailed, AttemptMessage, InboundStream, Strategy
from warpfleet.plugins.direct_connect import DirectConnect
from warpfleet.plugins.fan_out import FanOut
from warpfleet.plugins.get_addr import GetAddress
from warpfleet.plugins.return_addr import ReturnAddress
from warpfleet.plugins.reverse_connect import ReverseConnect
from warpfleet.plugins.reverse_connect.messages import DialMe
from warpfleet.plugins.turn import Turn
from warpfleet.plugins.turn.messages import RelayAnswer, RelayOffer
from warpfleet.plugins.udp_punch import UdpPunch
from warpfleet.plugins.udp_punch.messages import Answer, Offer
from warpfleet.plugins.udp_punch.plan import candidates

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
        self.a, self.b = contexts(alice, bob, combo, opened=self._open, routes=technique.reaches or None)

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
    assert await theirs.receive() == b"ping"
    await theirs.send(b"pong")
    assert await mine.receive() == b"pong"
    await asyncio.gather(mine.close(), theirs.close())


def reason_of(error: pytest.ExceptionInfo[AttemptFailed]) -> Reason:
    return error.value.reason


# udp_punch


@virtual_time
@pytest.mark.parametrize("route", [EXT, RouteType.NIC])
async def test_a_punch_opens_a_path(route: RouteType) -> None:
    internet = Internet()
    mine, theirs = await Meeting(UdpPunch, *two(internet), route).pipes()
    assert (mine.peer, mine.relayed, theirs.relayed) == ("bob", False, False)
    await carries(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
async def test_a_pipe_that_has_won_is_not_held_to_the_budget_of_an_attempt() -> None:
    mine, theirs = await Meeting(UdpPunch, *two(Internet())).pipes()
    for number in range(1000):
        await mine.send(b"%d" % number)
    assert {await theirs.receive() for _ in range(1000)} == {b"%d" % number for number in range(1000)}


@virtual_time
async def test_a_punch_without_stun_fails_and_closes_its_socket() -> None:
    internet = Internet()
    alice, bob = two(internet)
    alice.network.stun = TimeoutError()
    with pytest.raises(AttemptFailed) as failed:
        meeting = Meeting(UdpPunch, alice, bob)
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


@pytest.mark.parametrize("text", ["", "203.0.113.1", "203.0.113.1:0", "203.0.113.1:65536", "host:80", "1.2.3.4:x"])
def test_an_endpoint_that_is_none_is_refused_when_the_message_is_read(text: str) -> None:
    makers: list[tuple[type[AttemptMessage], dict[str, object]]] = [
        (Offer, {"candidates": (text,)}),
        (Answer, {"candidates": (text,)}),
        (DialMe, {"endpoints": (text,)}),
        (RelayOffer, {"relayed": text}),
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


# reverse_connect


@virtual_time
async def test_the_peer_dials_back() -> None:
    internet = Internet()
    alice, bob = two(internet)
    await DirectConnect.setup(alice)
    mine, theirs = await Meeting(ReverseConnect, alice, bob).pipes()
    assert theirs.remote == Endpoint("203.0.113.1", 443)
    assert now_s() == pytest.approx(8 * DELAY_S), "signal, connect, knock, greeting, proof, take, agreement"
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
    assert mine.local.ip == "198.51.100.9"
    assert theirs.local.ip == "203.0.113.2"
    assert mine.relayed
    assert theirs.relayed
    await carries(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
async def test_where_udp_does_not_get_out_the_responder_has_a_relay_of_its_own() -> None:
    internet = Internet()
    alice, bob = two(internet)
    bob.view = view("bob", "203.0.113.2", nat={4: NatBehaviour(udp=False)})
    bob.network.relay_ip = "198.51.100.10"
    mine, theirs = await Meeting(Turn, alice, bob).pipes()
    assert (mine.local.ip, theirs.local.ip) == ("198.51.100.9", "198.51.100.10")
    await carries(mine, theirs)


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
    assert mine.remote == seen_as
    await carries(mine, theirs)


@virtual_time
async def test_a_responder_that_does_not_know_its_address_gives_up_and_closes() -> None:
    internet = Internet()
    alice, bob = two(internet)
    bob.view = replace(bob.view, external={})
    meeting = Meeting(Turn, alice, bob)
    meeting.b.opening = RelayOffer(**HEAD, relayed="198.51.100.9:4000")
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
    assert pipe.remote.ip == listens_at
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
