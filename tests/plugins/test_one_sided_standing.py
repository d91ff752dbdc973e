"""A UDP punch where only one end has a standing socket: how soon the first byte is back, and what is sent to whom."""

import asyncio

import pytest

from fake_nat import EXTERNAL
from fake_network import DELAY_S, STUN_SERVER, FakeUdp
from fake_node import COMBO, contexts
from standing_pair import Pair, carries
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import is_frame
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.standing import UPKEEP_S
from warpfleet.plugins.udp_punch.plan import HIDDEN_PORT

EASY = ("public", "full_cone", "addr_restricted")
SYMMETRIC = ("symmetric_random", "symmetric_sequential")


@virtual_time
@pytest.mark.parametrize("theirs", SYMMETRIC)
@pytest.mark.parametrize("ours", EASY)
async def test_the_responder_is_heard_at_once_wherever_it_sends_from(ours: str, theirs: str) -> None:
    pair = await Pair(ours, theirs).open()
    if ours == "public":
        assert await pair.first_byte_s() == pytest.approx((4 * DELAY_S, 6 * DELAY_S)), "UDP may not get out of it"
    connected_s, echoed_s = await pair.first_byte_s()
    assert (connected_s, echoed_s) == pytest.approx((2 * DELAY_S, 4 * DELAY_S)), "as between two standing sockets"
    await pair.close()


@virtual_time
async def test_a_host_that_lets_no_udp_out_takes_no_pipe_and_gives_up_soon() -> None:
    pair = await Pair("public", "full_cone").open()
    pair.internet.loses = lambda _data, source, _target: source.ip == EXTERNAL["alice"]
    began_s = now_s()
    with pytest.raises(AttemptFailed) as failed:
        await pair.first_byte_s()
    assert failed.value.reason is Reason.NO_ANSWER
    assert now_s() - began_s < 0.5, "TCP, by which anybody reaches it, comes after it"


@virtual_time
@pytest.mark.parametrize("ours", SYMMETRIC)
@pytest.mark.parametrize("theirs", ["public", "full_cone"])
async def test_the_initiator_is_met_at_once_wherever_it_sends_from(ours: str, theirs: str) -> None:
    pair = await Pair(ours, theirs).open()
    connected_s, echoed_s = await pair.first_byte_s()
    assert (connected_s, echoed_s) == pytest.approx((2 * DELAY_S, 4 * DELAY_S)), "HELLO overtakes no offer"
    await pair.close()


@virtual_time
@pytest.mark.parametrize("ours", SYMMETRIC)
async def test_a_filter_that_the_offer_opens_lets_the_next_greeting_in(ours: str) -> None:
    pair = await Pair(ours, "addr_restricted").open()
    _, echoed_s = await pair.first_byte_s()
    assert echoed_s <= 4 * DELAY_S + 0.03 + 0.001, "30 ms later than behind no filter"
    await pair.close()


@virtual_time
async def test_a_predicted_responder_proves_itself_right_behind_its_answer() -> None:
    pair = await Pair("port_restricted", "symmetric_sequential").open()
    connected_s, echoed_s = await pair.first_byte_s()
    assert connected_s <= 5 * DELAY_S + 0.03 + 0.001, "offer, STUN, and the answer, which the proof follows"
    assert echoed_s - connected_s == pytest.approx(2 * DELAY_S)
    await pair.close()


@virtual_time
async def test_a_predicted_initiator_opens_its_run_before_it_is_answered() -> None:
    pair = await Pair("symmetric_sequential", "port_restricted").open()
    connected_s, echoed_s = await pair.first_byte_s()
    assert (connected_s, echoed_s) == pytest.approx((4 * DELAY_S, 6 * DELAY_S)), "STUN, offer, proof; TAKE, echo"
    await pair.close()


@virtual_time
@pytest.mark.parametrize(
    ("ours", "opened"), [("addr_restricted", [Endpoint(EXTERNAL["bob"], HIDDEN_PORT)]), ("full_cone", [])]
)
async def test_only_a_filter_for_addresses_is_opened_by_hand(ours: str, opened: list[Endpoint]) -> None:
    pair = await Pair(ours, "symmetric_random").open()
    [alices] = pair.standing_sockets()
    a, _ = contexts(pair.alice.node, pair.bob.node, COMBO)
    punching = asyncio.create_task(pair.alice.run(a))
    await asyncio.sleep(1)
    assert [target for _, target in alices.sent if target != STUN_SERVER] == opened
    punching.cancel()
    await asyncio.gather(punching, return_exceptions=True)
    await pair.close()


@virtual_time
@pytest.mark.parametrize("repeated", [1, 3])
async def test_who_repeats_what_a_hidden_initiator_sends_gets_no_more_than_it_sends(repeated: int) -> None:
    pair = await Pair("symmetric_random", "full_cone").open()
    [bobs] = pair.standing_sockets()
    opened: list[AttemptContext] = []
    a, _ = contexts(pair.alice.node, pair.bob.node, COMBO, opened=opened.append)
    asking = asyncio.create_task(pair.alice.run(a))
    await asyncio.sleep(DELAY_S / 2)
    asking.cancel()
    flight, hello = (data for data, _ in pair.standing_sockets()[1].sent)
    pair.internet.loses = lambda _data, source, _target: source.ip == EXTERNAL["alice"]
    await asyncio.sleep(DELAY_S)
    answering = asyncio.create_task(pair.bob.run(opened[0]))
    stranger = FakeUdp(pair.internet, Endpoint("203.0.113.66", 66))
    for data in (flight, *[hello] * repeated):
        stranger.send_to(data, bobs.source_towards(STUN_SERVER))
    await asyncio.sleep(1)
    got = [data for data, target in bobs.sent if target == stranger.local and not is_frame(data)]
    assert [len(data) for data in got] == [len(flight)], "one flight for the other, and only frames for frames"
    answering.cancel()
    await asyncio.gather(asking, answering, return_exceptions=True)
    stranger.close()
    await pair.close()


@virtual_time
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("symmetric_random", "full_cone"),
        ("symmetric_random", "addr_restricted"),
        ("symmetric_sequential", "port_restricted"),
        ("port_restricted", "full_cone"),
        ("port_restricted", "port_restricted"),
    ],
)
async def test_a_responder_that_stands_no_more_says_where_it_is(ours: str, theirs: str) -> None:
    pair = await Pair(ours, theirs).open()
    pair.bob.node.network.stun = TimeoutError()
    await asyncio.sleep(UPKEEP_S + 1)
    assert pair.bob.node.standing == {}
    pair.bob.node.network.stun = None
    mine, responder = await pair.connect()
    await carries(mine, responder)
    await asyncio.gather(mine.close(), responder.close())
    await pair.close()
