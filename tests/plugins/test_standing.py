"""The standing socket of a node, and the punch from one to another: what it saves, and that nothing is worse for it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import ValidationError

from fake_nat import EXTERNAL, NattedUdp, natted
from fake_network import DELAY_S, STUN_SERVER, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, COMBO, MALLORY, contexts, handshakes
from standing_pair import Pair, Side, carries
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, is_frame
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.plugins.greeting import Greeting
from warpfleet.plugins.standing import UPKEEP_S
from warpfleet.plugins.udp_punch.messages import Offer

NOWHERE = 9  # a port
HEAD = {"attempt_id": ATTEMPT_ID, "af": 4, "route": RouteType.EXT, "started_at_us": 0}


@virtual_time
async def test_the_first_byte_is_back_after_one_signal_one_way_and_one_round_trip() -> None:
    pair = await Pair().open()
    connected_s, echoed_s = await pair.first_byte_s()
    assert connected_s == pytest.approx(2 * DELAY_S), "the offer, and the proof"
    assert echoed_s == pytest.approx(4 * DELAY_S), "TAKE with the first byte, and the echo"
    await pair.close()


@virtual_time
async def test_pipes_one_after_another_take_the_same_sockets() -> None:
    pair = await Pair().open()
    sockets = pair.standing_sockets()
    for number in range(3):
        mine, theirs = await pair.connect(f"{number:032x}")
        assert pair.standing_sockets() == sockets
        await carries(mine, theirs)
        await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_ten_pipes_at_once_between_two_sockets_are_told_apart_and_each_is_as_fast_as_one() -> None:
    pair = await Pair().open()
    sockets, began_s = pair.standing_sockets(), now_s()
    ids = [f"{number:032x}"[::-1] for number in range(10)]
    pairs = await asyncio.gather(*(pair.connect(id_, swapped=number % 2 == 1) for number, id_ in enumerate(ids)))
    assert now_s() - began_s == pytest.approx(3 * DELAY_S), "the offer, the proof, and TAKE"
    await asyncio.gather(*(carries(*ends) for ends in pairs))
    assert pair.standing_sockets() == sockets
    await asyncio.gather(*(pipe.close() for ends in pairs for pipe in ends))
    await pair.close()


Loses = Callable[[bytes, Endpoint, Endpoint], bool]


@virtual_time
@pytest.mark.parametrize("which", range(12))
async def test_a_packet_that_is_lost_costs_time_and_nothing_else(which: int) -> None:
    pair = await Pair().open()
    count = -1

    def loses(_data: bytes, _source: Endpoint, _target: Endpoint) -> bool:
        nonlocal count
        count += 1
        return count == which

    pair.internet.loses = loses
    began_s = now_s()
    mine, theirs = await pair.connect()
    await carries(mine, theirs)
    assert now_s() - began_s < 1
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_a_pipe_whose_peer_never_agrees_breaks_within_seconds() -> None:
    pair = await Pair().open()
    alices = pair.standing_sockets()[0]
    pair.internet.loses = lambda _data, source, _target: source == alices.source_towards(STUN_SERVER)
    a, b = contexts(pair.alice.node, pair.bob.node, COMBO)
    proving = asyncio.create_task(pair.alice.run(a))
    await asyncio.sleep(2 * DELAY_S)
    answering = asyncio.create_task(pair.bob.run(b))
    pipe = await proving
    began_s = now_s()
    await pipe.send(b"x")
    for ends in (pipe.recv, pipe.agreed):
        with pytest.raises(ConnectionLost, match="did not agree"):
            await ends()
    assert now_s() - began_s < 3.5
    assert not answering.done(), "Bob has heard nothing: he hands no pipe over"
    answering.cancel()
    await asyncio.gather(answering, pipe.close(), return_exceptions=True)
    await pair.close()


@virtual_time
@pytest.mark.parametrize("lost", [None, FrameType.AGREED])
async def test_whatever_comes_back_first_shows_that_the_peer_has_agreed(lost: FrameType | None) -> None:
    pair = await Pair().open()
    pair.internet.loses = lambda data, *_: is_frame(data) and Frame.parse(data).type is lost
    began_s = now_s()
    mine, theirs = await pair.connect()
    await mine.agreed()
    assert now_s() - began_s == pytest.approx(4 * DELAY_S)
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


def restart_nat(socket: FakeUdp) -> None:
    """Forget all mappings: the next one has another port."""
    assert isinstance(socket, NattedUdp)
    socket.mappings.clear()


@virtual_time
@pytest.mark.parametrize("restarted", ["alice", "bob"])
@pytest.mark.parametrize(
    ("alice", "bob"),
    [
        ("eim_random_ports", "port_restricted"),
        ("full_cone", "symmetric_random"),
        ("symmetric_random", "addr_restricted"),
        ("port_restricted", "symmetric_sequential"),
        ("symmetric_sequential", "port_restricted"),
    ],
)
async def test_a_mapping_that_has_just_died_costs_half_a_second(alice: str, bob: str, restarted: str) -> None:
    pair = await Pair(alice, bob).open()
    for socket in pair.standing_sockets():
        if socket.source_towards(STUN_SERVER).ip == EXTERNAL[restarted]:
            restart_nat(socket)
    began_s = now_s()
    mine, theirs = await pair.connect()
    assert now_s() - began_s < 0.5 + 14 * DELAY_S, "the patience, and the ordinary way"
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_an_endpoint_in_the_record_that_is_stale_is_made_good_by_the_answer() -> None:
    pair = await Pair().open()
    pair.bob.node.view = replace(pair.bob.node.view, standing={"udp_punch": {4: NOWHERE}})
    began_s = now_s()
    mine, theirs = await pair.connect()
    assert now_s() - began_s < 12 * DELAY_S, "as long as it takes without a standing socket"
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_an_endpoint_in_the_offer_that_is_stale_is_made_good_by_the_first_greeting() -> None:
    pair = await Pair("eim_random_ports", "full_cone").open()
    alices = pair.standing_sockets()[0]
    assert isinstance(alices, NattedUdp)
    alices.mappings.clear()  # her NAT was restarted, and gives another port
    alices.mappings[STUN_SERVER] = Endpoint(EXTERNAL["alice"], 61_000)
    for socket in pair.standing_sockets()[1:]:
        socket.hears = lambda _source, target: target.ip == EXTERNAL["bob"]  # type: ignore[method-assign]
    mine, theirs = await pair.connect()
    assert theirs.path.remote.port == 61_000
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_an_offer_that_comes_again_gets_a_proof_of_its_own_and_no_pipe() -> None:
    pair = await Pair().open()
    offers: list[Offer] = []
    _, b = contexts(pair.alice.node, pair.bob.node, COMBO, opened=lambda context: offers.append(context.opening))  # type: ignore[arg-type]
    mine, theirs = await pair.connect()
    a, _ = contexts(pair.alice.node, pair.bob.node, COMBO)
    a.post = offers.append  # type: ignore[assignment]
    await asyncio.gather(mine.close(), theirs.close())
    asking = asyncio.create_task(pair.alice.run(a))
    await asyncio.sleep(0)
    asking.cancel()
    b.opening = offers[0]
    answering = asyncio.create_task(pair.bob.run(b))
    await asyncio.sleep(1)
    bobs = pair.standing_sockets()[1]
    assert FrameType.PROOF in {Frame.parse(data).type for data, _ in bobs.sent if is_frame(data)}
    assert not answering.done(), "who repeats an offer can prove nothing"
    answering.cancel()
    await asyncio.gather(asking, answering, return_exceptions=True)
    await pair.close()


def test_a_greeting_travels_in_an_offer() -> None:
    greeting = Greeting(
        hello=bytes(range(FRAME_BYTES % 256)).ljust(FRAME_BYTES, b"\xff"), flight=(bytes(1200), b"\xff")
    )
    offer = Offer(**HEAD, candidates=("203.0.113.1:50000",), greeting=greeting)
    assert Offer.model_validate_json(offer.model_dump_json()) == offer


@pytest.mark.parametrize(
    ("hello", "flight"),
    [
        (bytes(FRAME_BYTES - 1), ()),
        (bytes(FRAME_BYTES + 1), ()),
        (bytes(FRAME_BYTES), (bytes(1501),)),
        (bytes(FRAME_BYTES), (b"", b"", b"")),
    ],
)
def test_a_greeting_is_one_frame_and_at_most_two_datagrams(hello: bytes, flight: tuple[bytes, ...]) -> None:
    with pytest.raises(ValidationError):
        Greeting(hello=hello, flight=flight)


@virtual_time
async def test_who_repeats_a_greeting_from_elsewhere_gets_no_more_than_it_sends() -> None:
    pair = await Pair().open()
    bobs = pair.standing_sockets()[1]
    bobs.hears = lambda _source, target: target.ip == EXTERNAL["bob"]  # type: ignore[method-assign]
    offers: list[Offer] = []
    a, b = contexts(pair.alice.node, pair.bob.node, COMBO)
    a.post = offers.append  # type: ignore[assignment]
    asking = asyncio.create_task(pair.alice.run(a))
    await asyncio.sleep(0)
    asking.cancel()
    b.opening = offers[0]
    answering = asyncio.create_task(pair.bob.run(b))
    await asyncio.sleep(0.1)
    stranger = FakeUdp(pair.internet, Endpoint("203.0.113.66", 66))
    assert offers[0].greeting
    stranger.send_to(offers[0].greeting.hello, bobs.source_towards(STUN_SERVER))
    await asyncio.sleep(0.1)
    assert [len(data) for data, target in bobs.sent if target == stranger.local] == [FRAME_BYTES]
    answering.cancel()
    await asyncio.gather(asking, answering, return_exceptions=True)
    stranger.close()
    await pair.close()


@virtual_time
async def test_strangers_hear_nothing_from_a_standing_socket() -> None:
    pair = await Pair("full_cone", "full_cone").open()
    alices = pair.standing_sockets()[0]
    alices.hears = lambda _source, target: target.port == 50_000  # type: ignore[method-assign]
    mine, theirs = await pair.connect()
    stranger = FakeUdp(pair.internet, Endpoint("203.0.113.66", 66))
    for data in (b"hello", handshakes(responder=MALLORY)[1].opener(), handshakes(responder=MALLORY)[1].close()):
        stranger.send_to(data, alices.source_towards(STUN_SERVER))
    await asyncio.sleep(1)
    stranger.close()
    assert not [target for _, target in alices.sent if target == stranger.local]
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_the_pipes_of_a_node_that_closes_end() -> None:
    pair = await Pair().open()
    mine, theirs = await pair.connect()
    await pair.alice.node.close()
    with pytest.raises(ConnectionLost):
        await mine.recv()
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
async def test_the_record_says_where_it_is_as_long_as_that_is_true() -> None:
    internet = Internet()
    alice = natted(ALICE, internet)
    await Side(alice).open()
    assert alice.standing == {4: 50_000}
    [socket] = internet.udp
    assert isinstance(socket, NattedUdp)
    socket.mappings.clear()
    await asyncio.sleep(UPKEEP_S + 1)
    assert alice.standing == {4: 50_001}
    alice.network.stun = TimeoutError()
    await asyncio.sleep(UPKEEP_S + 1)
    assert alice.standing == {}
    alice.network.stun = None
    await asyncio.sleep(UPKEEP_S + 1)
    assert alice.standing == {4: 50_001}
    await alice.close()
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("preset", ["symmetric_sequential", "symmetric_random", "udp_blocked"])
async def test_where_no_socket_serves_all_peers_there_is_none(preset: str) -> None:
    internet = Internet()
    alice = natted(ALICE, internet, preset)
    await Side(alice).open()
    assert (alice.standing, internet.udp) == ({}, [])
    await alice.close()
