"""The UDP punch between two nodes in memory: whom it reaches, runs of predicted ports, and how it fails."""

import asyncio
from dataclasses import replace

import pytest
from meeting import EXT, Meeting, carries_then_closes, meets, port_filtered, reason_of, two

from fake_nat import EXTERNAL, natted, sequence
from fake_network import DELAY_S, STUN_SERVER, FakeUdp, Internet
from fake_node import ALICE, BOB, HEAD, FakeNode, contexts, node
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Combo, Reason, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.nat import Filtering, NatBehaviour
from warpfleet.core.targets import USUAL_ALLOWANCE
from warpfleet.net.interfaces import Pipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.udp_punch import UdpPunch
from warpfleet.plugins.udp_punch.messages import Offer


@virtual_time
@pytest.mark.parametrize("route", [EXT, RouteType.NIC])
async def test_a_punch_opens_a_path(route: RouteType) -> None:
    internet = Internet()
    mine, theirs = await Meeting(UdpPunch, *two(internet), route).pipes()
    assert (mine.peer, mine.path.relayed, theirs.path.relayed) == ("bob", False, False)
    await carries_then_closes(mine, theirs)
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


def sequential(identity: Identity, internet: Internet, first: int, delta: int = 1, **others: int) -> FakeNode:
    """A node behind a sequential NAT, and what others behind it do."""
    made = natted(identity, internet, "symmetric_sequential", sequence(first, delta))
    made.view.nat[4] = replace(made.view.nat[4], port_delta=delta)
    for name, count in others.items():
        setattr(made.network, name, count)
    return made


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
    await carries_then_closes(*await meeting.pipes())
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
