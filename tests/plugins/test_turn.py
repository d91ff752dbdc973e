"""Relays between two nodes in memory: who allocates, what the offer carries, and why there is none."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from meeting import Meeting, carries_then_closes, reason_of, two

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import HEAD, FakeNode, view
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import NatBehaviour
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, is_frame
from warpfleet.net.interfaces import ConnectRefused, RelayRefused, Unreachable
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.turn import Turn
from warpfleet.plugins.turn.messages import RelayOffer


@virtual_time
async def test_a_relay_joins_both_ends() -> None:
    internet = Internet()
    mine, theirs = await Meeting(Turn, *two(internet)).pipes()
    assert mine.path.local.ip == "198.51.100.9"
    assert theirs.path.local.ip == "203.0.113.2"
    assert mine.path.relayed
    assert theirs.path.relayed
    await carries_then_closes(mine, theirs)
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
    await carries_then_closes(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("has_relay", [True, False])
async def test_a_responder_that_is_not_heard_from_where_it_said_goes_on_from_a_relay(has_relay: bool) -> None:
    """As behind a NAT that pools its addresses arbitrarily, where it has one; else it goes on as it began."""
    internet = Internet(loses=lambda _data, source, _target: source.ip == "203.0.113.2" and (has_relay or now_s() < 4))
    alice, bob = two(internet)
    bob.network.relay_ip = "198.51.100.10"
    if not has_relay:
        bob.network.turn = RelayRefused("486")
    mine, theirs = await Meeting(Turn, alice, bob).pipes()
    assert theirs.path.local.ip == ("198.51.100.10" if has_relay else "203.0.113.2")
    assert now_s() < 5
    await carries_then_closes(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("lost", [FrameType.PROOF, FrameType.TAKE])
async def test_a_responder_whose_answers_come_late_is_met_where_it_said_although_it_has_gone_on(
    lost: FrameType,
) -> None:
    def loses(data: bytes, _source: Endpoint, _target: Endpoint) -> bool:
        return is_frame(data) and Frame.parse(data).type is lost and now_s() < 3.2

    internet = Internet(loses=loses)
    alice, bob = two(internet)
    bob.network.relay_ip = "198.51.100.10"
    mine, theirs = await Meeting(Turn, alice, bob).pipes()
    assert now_s() < 5
    await carries_then_closes(mine, theirs)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("works", [0, 1])
async def test_of_two_ways_that_end_in_one_turn_the_one_that_leads_there_counts(works: int) -> None:
    async def fails() -> Any:
        raise ConnectRefused("no")

    async def leads_there() -> Any:
        return "a pipe"

    internet = Internet()
    ways = {
        asyncio.create_task(leads_there() if turn == works else fails()): FakeUdp(internet, Endpoint("127.0.0.1", 1))
        for turn in range(2)
    }
    await asyncio.wait(ways)
    assert await Turn._first(ways) == "a pipe"


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
    await carries_then_closes(mine, theirs)


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
    await carries_then_closes(*await meeting.pipes())


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
