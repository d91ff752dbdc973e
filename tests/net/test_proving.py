"""Both ends prove themselves over datagrams and streams: who wins, what is told to whom, and that nothing hangs."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, MALLORY, handshakes, leave_at_once
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.proving import PeerClosed, prove_datagram
from warpfleet.net.quic_engine import QuicEngine

A, B, B2 = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000), Endpoint("203.0.113.3", 3000)
NOWHERE = Endpoint("203.0.113.99", 9)


def kinds(socket: FakeUdp, to: Endpoint | None = None) -> list[FrameType]:
    return [Frame.parse(data).type for data, target in socket.sent if to in (None, target)]


async def both(
    alice: FakeUdp, bob: FakeUdp, to_bob: Sequence[Endpoint], to_alice: Sequence[Endpoint]
) -> tuple[Endpoint, Endpoint]:
    a, b = handshakes()
    async with asyncio.timeout(20):
        initiator = asyncio.create_task(prove_datagram(alice, a, leave_at_once, to_bob))
        responder = asyncio.create_task(prove_datagram(bob, b, leave_at_once, to_alice))
        return (await initiator).remote, (await responder).remote


@virtual_time
async def test_two_open_ends_agree_in_two_round_trips() -> None:
    internet = Internet()
    assert await both(FakeUdp(internet, A), FakeUdp(internet, B), [B], [A]) == (B, A)
    assert now_s() == pytest.approx(4 * DELAY_S)


@virtual_time
async def test_an_endpoint_that_nobody_predicted_is_as_good_as_any() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    bob.seen_as = Endpoint(B.ip, 61234)  # his NAT gave the flow to Alice another port
    assert await both(alice, bob, [B], [A]) == (bob.seen_as, A)


@virtual_time
async def test_a_responder_without_candidates_answers_the_initiators_source() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    alice.seen_as = Endpoint(A.ip, 61234)
    assert await both(alice, bob, [B], []) == (B, alice.seen_as)


@virtual_time
async def test_a_datagram_that_was_read_before_saves_its_repetition() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    a, b = handshakes()
    alice.send_to(a.opener(), B)
    first = [await bob.receive()]
    async with asyncio.timeout(20):
        initiator = asyncio.create_task(prove_datagram(alice, a, leave_at_once, []))
        assert (await prove_datagram(bob, b, leave_at_once, [], first=first)).remote == A
        assert (await initiator).remote == B
    assert kinds(alice) == [FrameType.HELLO, FrameType.TAKE]
    assert now_s() == pytest.approx(4 * DELAY_S)


@virtual_time
async def test_greetings_that_come_at_once_are_answered_once_and_those_that_go_on_again() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    a, b = handshakes()
    responding = asyncio.create_task(prove_datagram(bob, b, leave_at_once, []))
    for _ in range(20):
        alice.send_to(a.opener(), B)
        await asyncio.sleep(0.004)
    await asyncio.sleep(DELAY_S)
    assert kinds(bob, A).count(FrameType.PROOF) == 7, "every third: 12 ms after the one before"
    responding.cancel()
    await asyncio.gather(responding, return_exceptions=True)


@virtual_time
async def test_of_two_candidates_the_first_to_prove_itself_is_taken() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    assert await both(alice, bob, [NOWHERE, B, B], [A]) == (B, A)
    assert FrameType.TAKE not in kinds(alice, NOWHERE)
    assert kinds(alice, B).count(FrameType.TAKE) == 1


@virtual_time
async def test_a_closed_filter_opens_with_the_resends() -> None:
    internet = Internet()
    sent_to: set[tuple[Endpoint, Endpoint]] = set()

    def filtered(_data: bytes, source: Endpoint, target: Endpoint) -> bool:
        sent_to.add((source, target))
        return (target, source) not in sent_to  # address- and port-dependent, on both sides

    internet.loses = filtered
    assert await both(FakeUdp(internet, A), FakeUdp(internet, B), [B], [A]) == (B, A)
    assert now_s() < 0.3


@virtual_time
async def test_each_resend_comes_later_than_the_last_up_to_half_a_second() -> None:
    alice = FakeUdp(Internet(), A)
    times: list[float] = []
    alice.send_to = lambda _data, _target: times.append(now_s())  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await prove_datagram(alice, handshakes()[0], leave_at_once, [NOWHERE])
    gaps = [round(later - earlier, 6) for earlier, later in pairwise(times)]
    assert gaps[:3] == pytest.approx([0.05, 0.075, 0.1125])
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(0.5)


class NotNamedError(WarpfleetError):
    pass


async def refuse() -> None:
    raise NotNamedError


@virtual_time
async def test_a_claim_that_raises_ends_the_attempt_and_tells_the_peer() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    a, b = handshakes()
    responding = asyncio.create_task(prove_datagram(bob, b, leave_at_once, [A]))
    with pytest.raises(NotNamedError):
        await prove_datagram(alice, a, refuse, [B])
    with pytest.raises(PeerClosed):
        await responding
    assert FrameType.CLOSE in kinds(alice, B)


@virtual_time
async def test_a_cancelled_end_tells_whom_it_has_heard_and_nobody_else() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    a, b = handshakes()

    async def never() -> None:
        await asyncio.Event().wait()

    initiating = asyncio.create_task(prove_datagram(alice, a, never, [B, NOWHERE]))
    responding = asyncio.create_task(prove_datagram(bob, b, leave_at_once, [A]))
    await asyncio.sleep(1)
    initiating.cancel()
    with pytest.raises(PeerClosed):
        await responding
    assert initiating.cancelled()
    assert FrameType.CLOSE not in kinds(alice, NOWHERE)


@virtual_time
async def test_what_cannot_be_told_does_not_hide_why_it_ended() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    a, b = handshakes()
    spent = False
    send = alice.send_to

    def send_within_budget(data: bytes, remote: Endpoint) -> None:
        if spent:
            raise NotNamedError("the budget is spent")
        send(data, remote)

    alice.send_to = send_within_budget  # type: ignore[method-assign]

    async def never() -> None:
        await asyncio.Event().wait()

    responding = asyncio.create_task(prove_datagram(bob, b, leave_at_once, [A]))
    initiating = asyncio.create_task(prove_datagram(alice, a, never, [B]))
    await asyncio.sleep(1)
    spent = True
    for task in (initiating, responding):
        task.cancel()
    await asyncio.gather(initiating, responding, return_exceptions=True)
    assert initiating.cancelled()


@virtual_time
async def test_noise_and_strangers_on_the_port_change_nothing() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    stranger = FakeUdp(internet, B2)
    _, forged = handshakes(responder=MALLORY)
    for data in (b"", b"\0" * 7, bytes(FRAME_BYTES), forged.opener()):
        stranger.send_to(data, A)
        stranger.send_to(data, B)
    assert await both(alice, bob, [B], [A]) == (B, A)
    assert kinds(alice, B2) == []


@virtual_time
async def test_a_peer_that_stops_half_way_costs_no_more_than_the_callers_time() -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    a, b = handshakes()
    internet.loses = lambda data, _s, _t: Frame.parse(data).type is FrameType.AGREED
    responding = asyncio.create_task(prove_datagram(bob, b, leave_at_once, [A]))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await prove_datagram(alice, a, leave_at_once, [B])
    assert (await responding).remote == A
    assert now_s() == pytest.approx(3)
    assert len(asyncio.all_tasks()) == 1


@virtual_time
async def test_a_socket_that_closes_ends_the_proof() -> None:
    alice = FakeUdp(Internet(), A)
    asyncio.get_running_loop().call_later(0.5, alice.close)
    with pytest.raises(ConnectionLost):
        await prove_datagram(alice, handshakes()[0], leave_at_once, [NOWHERE])


# Streams


async def move_turn() -> str:
    return "turn"


@virtual_time
@pytest.mark.parametrize("lost", [0, 2])
async def test_where_a_pipe_moves_here_both_ends_know_whose_and_nothing_else_is_sent(lost: int) -> None:
    internet = Internet()
    alice, bob = FakeUdp(internet, A), FakeUdp(internet, B)
    moves = iter(range(lost))
    internet.loses = lambda data, *_: Frame.parse(data).type is FrameType.MOVE and next(moves, None) is not None
    a, b = handshakes()
    tunnel = QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID)
    async with asyncio.timeout(20):
        initiator = asyncio.create_task(prove_datagram(alice, a, move_turn, [B], tunnel=tunnel))
        responder = await prove_datagram(bob, b, leave_at_once, [A])
        assert ((await initiator).moves, responder.moves) == ("turn", "turn")
    assert Frame.parse(responder.answer).type is FrameType.AGREED
    assert (await initiator).answer == b""
    assert kinds(alice).count(FrameType.MOVE) == lost + 1
    assert tunnel.due_s is None, "there is a tunnel already"


@virtual_time
@pytest.mark.parametrize(("rtt_ms", "sent_by_s"), [(None, 3), (200.0, 1), (10.0, 3), (9_000.0, 1)])
async def test_where_the_round_trip_is_known_nothing_is_sent_before_an_answer_can_have_come(
    rtt_ms: float | None, sent_by_s: int
) -> None:
    socket = FakeUdp(Internet(), Endpoint("198.51.100.1", 1))
    silent = Endpoint("198.51.100.9", 9)
    proving = asyncio.create_task(prove_datagram(socket, handshakes()[0], leave_at_once, [silent], rtt_ms=rtt_ms))
    await asyncio.sleep(0.2)
    assert len(socket.sent) == sent_by_s
    proving.cancel()
    await asyncio.gather(proving, return_exceptions=True)


@virtual_time
async def test_an_initiator_asks_again_where_the_responder_was_heard_although_nobody_predicted_it() -> None:
    socket = FakeUdp(Internet(), Endpoint("198.51.100.1", 1))
    predicted, reflexive = Endpoint("198.51.100.9", 9), Endpoint("198.51.100.9", 4321)
    initiator, responder = handshakes()
    proving = asyncio.create_task(prove_datagram(socket, initiator, leave_at_once, [predicted]))
    await asyncio.sleep(0.01)
    socket.arrive(responder.opener(), reflexive)
    await asyncio.sleep(1)
    asked = [remote for _, remote in socket.sent]
    assert asked.count(reflexive) > 2, "its proof may be lost, and it knocks no more"
    proving.cancel()
    await asyncio.gather(proving, return_exceptions=True)


@virtual_time
@pytest.mark.parametrize("read_before", [False, True])
async def test_a_responder_that_has_been_greeted_knocks_only_where_the_initiator_is_silent(read_before: bool) -> None:
    socket, peer = FakeUdp(Internet(), Endpoint("198.51.100.1", 1)), Endpoint("198.51.100.9", 9)
    initiator, responder = handshakes()
    greeting = initiator.opener(), peer
    first = [greeting] if read_before else []
    proving = asyncio.create_task(prove_datagram(socket, responder, leave_at_once, [NOWHERE], first=first))
    if not read_before:
        await asyncio.sleep(0.01)
        socket.arrive(*greeting)
    for _ in range(5):
        await asyncio.sleep(0.4)
        socket.arrive(*greeting)
    assert set(kinds(socket, peer)) == {FrameType.PROOF}, "the initiator asks again where the answer was lost"
    await asyncio.sleep(1.6)
    assert kinds(socket, peer)[-3:] == [FrameType.KNOCK] * 3, "or does not know where it was heard"
    assert len(kinds(socket, NOWHERE)) == (0 if read_before else 1)
    proving.cancel()
    await asyncio.gather(proving, return_exceptions=True)
