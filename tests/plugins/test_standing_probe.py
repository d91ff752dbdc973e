"""Random probes whose guessing side has a socket that stands, and whose proof and tunnel begin by signal."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from probing_pair import COMBO, Pair, carry_and_close, echoed_within_s

from fake_nat import natted
from fake_network import DELAY_S, Internet
from fake_node import ALICE, ATTEMPT_ID, contexts
from standing_pair import carries
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, ProofFailed, is_frame
from warpfleet.net.interfaces import Pipe
from warpfleet.net.quic import QuicPipe
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.greeting import Greeting
from warpfleet.plugins.random_probe import RandomProbe
from warpfleet.plugins.random_probe.messages import Answer, Offer
from warpfleet.plugins.standing import UPKEEP_S
from warpfleet.plugins.volley import Volley


def is_a(kind: FrameType, data: bytes) -> bool:
    return is_frame(data) and Frame.parse(data).type is kind


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("seed", range(5))
async def test_nobody_is_asked_and_the_first_byte_is_back_a_round_trip_after_the_proof(
    random_initiator: bool, seed: int
) -> None:
    pair = await Pair(seed, random_initiator=random_initiator).open()
    arrive, proofs_s = pair.internet._arrive, list[float]()

    def noting(data: bytes, source: Endpoint, target: Endpoint) -> None:
        if is_a(FrameType.PROOF, data) and any(end.hears(source, target) for end in pair.internet.open_sockets()):
            proofs_s.append(now_s())
        arrive(data, source, target)

    pair.internet._arrive = noting  # type: ignore[method-assign]
    ends = await pair.connect()
    assert now_s() == pytest.approx(proofs_s[0], abs=0.001)
    assert await echoed_within_s(*ends) == pytest.approx(2 * DELAY_S, abs=0.001)
    await pair.close()


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_attempts_at_once_and_one_after_another_guess_from_one_socket(random_initiator: bool) -> None:
    pair = await Pair(random_initiator=random_initiator).open()
    [standing] = pair.internet.open_sockets()
    pairs = await asyncio.gather(*(pair.connect(f"{number:032x}"[::-1]) for number in range(1, 4)))
    await asyncio.gather(*(responding for _, responding in pairs))
    assert len(pair.internet.open_sockets()) == 1 + len(pairs)
    await asyncio.gather(*(carry_and_close(*ends) for ends in pairs))
    assert pair.internet.open_sockets() == [standing]
    await carry_and_close(*await pair.connect())
    await pair.close()


@virtual_time
@pytest.mark.parametrize("seed", range(5))
async def test_a_responder_that_is_heard_in_two_places_goes_on_where_its_pipe_is_taken(seed: int) -> None:
    pair = await Pair(seed, random_initiator=False).open()
    greeted: list[Endpoint] = []

    def what_the_first_that_was_greeted_says(data: bytes, source: Endpoint, target: Endpoint) -> bool:
        if is_a(FrameType.HELLO, data) and any(end.hears(source, target) for end in pair.internet.open_sockets()):
            greeted.append(target)
        return is_a(FrameType.PROOF, data) and source in greeted[:1]

    pair.internet.loses = what_the_first_that_was_greeted_says
    mine, responding = await pair.connect()
    assert mine.path.remote not in greeted[:1]
    await carry_and_close(mine, responding)
    await pair.close()


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("lost", [FrameType.PROOF, FrameType.TAKE, FrameType.AGREED])
async def test_the_first_frame_of_a_kind_that_would_arrive_may_be_lost(random_initiator: bool, lost: FrameType) -> None:
    pair = await Pair(random_initiator=random_initiator).open()
    losses: list[Endpoint] = []

    def loses(data: bytes, source: Endpoint, target: Endpoint) -> bool:
        arrives = any(end.hears(source, target) for end in pair.internet.open_sockets())
        if arrives and is_a(lost, data) and not losses:
            losses.append(target)
            return True
        return False

    pair.internet.loses = loses
    await carry_and_close(*await pair.connect())
    assert losses
    await pair.close()


@virtual_time
async def test_a_responder_that_is_greeted_answers_until_it_is_heard() -> None:
    pair = await Pair(random_initiator=False).open()
    proofs: Counter[Endpoint] = Counter()

    def loses_the_first_and_the_answer(data: bytes, source: Endpoint, _target: Endpoint) -> bool:
        proofs[source] += is_a(FrameType.PROOF, data)
        return is_a(FrameType.PROOF, data) and proofs[source] <= 2

    pair.internet.loses = loses_the_first_and_the_answer
    await carry_and_close(*await pair.connect())
    await pair.close()


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_an_attempt_that_is_cancelled_as_its_peer_is_heard_leaves_no_socket(
    random_initiator: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await Pair(random_initiator=random_initiator).open()
    [standing] = pair.internet.open_sockets()
    attempts: list[asyncio.Task[Pipe]] = []
    cancelled, prove = asyncio.Event(), Volley.prove

    def cancel(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(cancel, turns - 1)
            return
        cancelled.set()
        for attempt in attempts:
            attempt.cancel()

    async def noting(self: Volley, *arguments: Any, **options: Any) -> Won:
        self._heard.add_done_callback(lambda _: cancel(turns))
        return await prove(self, *arguments, **options)

    monkeypatch.setattr(Volley, "prove", noting)

    def respond(b: AttemptContext) -> None:
        attempts.append(asyncio.create_task(pair.run(b)))

    a, _ = contexts(pair.alice, pair.bob, COMBO, opened=respond, allowance=RandomProbe.allowance)
    attempts.append(asyncio.create_task(pair.run(a)))
    await asyncio.wait_for(cancelled.wait(), 10)
    for ended in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(ended, QuicPipe):
            await ended.close()
    await asyncio.sleep(1)
    assert pair.internet.open_sockets() == [standing]
    await pair.close()


@virtual_time
async def test_a_copied_greeting_brings_its_sender_no_more_than_a_few_answers() -> None:
    pair = await Pair(random_initiator=True).open()
    pair.internet.loses = lambda data, source, target: is_a(FrameType.PROOF, data) and target not in strangers
    strangers = [Endpoint("198.51.100.9", port) for port in range(1000, 1100)]
    answered: Counter[Endpoint] = Counter()
    connecting = asyncio.create_task(pair.connect())
    [standing] = pair.internet.open_sockets()
    hellos: list[bytes] = []
    carry = pair.internet.carry

    def noting(data: bytes, source: Endpoint, target: Endpoint) -> None:
        if is_a(FrameType.HELLO, data) and not hellos:
            hellos.append(data)
            for stranger in strangers:
                standing.arrive(data, stranger)
        answered[target] += is_a(FrameType.PROOF, data)
        carry(data, source, target)

    pair.internet.carry = noting  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        await connecting
    assert 0 < max(answered[stranger] for stranger in strangers) <= 5
    assert sum(answered[stranger] > 0 for stranger in strangers) <= 16
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await pair.close()


@virtual_time
async def test_a_pipe_that_is_to_move_to_a_socket_that_serves_all_peers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = await Pair(random_initiator=True).open()
    [standing] = pair.internet.open_sockets()

    async def moves() -> str:
        return "turn"

    a, b = contexts(pair.alice, pair.bob, COMBO, claim=moves, allowance=RandomProbe.allowance)  # type: ignore[arg-type]
    initiating = asyncio.create_task(pair.run(a))
    await asyncio.sleep(3 * DELAY_S)
    assert isinstance(b.opening, Offer)
    assert b.opening.greeting, "it was not for a move"
    with pytest.raises(ProofFailed, match="moves a pipe"):
        await pair.run(b)
    initiating.cancel()
    await asyncio.gather(initiating, return_exceptions=True)
    await asyncio.sleep(1)
    assert standing in pair.internet.open_sockets()
    await pair.close()


@virtual_time
async def test_what_overtakes_the_taking_of_the_pipe_is_kept() -> None:
    pair = await Pair(random_initiator=False).open()
    late_s = 0.005

    def delays_it(data: bytes, source: Endpoint, target: Endpoint) -> bool:
        if is_a(FrameType.TAKE, data):
            asyncio.get_running_loop().call_later(late_s, pair.internet._arrive, data, source, target)
            asyncio.get_running_loop().call_later(DELAY_S + late_s, pair.internet._arrive, data, source, target)
        return is_a(FrameType.TAKE, data)

    pair.internet.loses = delays_it
    assert await echoed_within_s(*await pair.connect()) < 3 * DELAY_S
    await pair.close()


@virtual_time
async def test_a_forged_greeting_is_none() -> None:
    pair = await Pair(random_initiator=False).open()

    def forge(b: AttemptContext) -> None:
        assert isinstance(b.opening, Offer)
        b.opening = b.opening.model_copy(update={"greeting": Greeting(hello=bytes(FRAME_BYTES), flight=())})

    await carry_and_close(*await pair.connect(opened=forge))
    await pair.close()


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_a_path_for_a_pipe_that_is_to_move_is_sought_from_a_socket_of_its_own(random_initiator: bool) -> None:
    pair = await Pair(random_initiator=random_initiator).open()
    for node in (pair.alice, pair.bob):
        node.network.stun = None
    [standing] = pair.internet.open_sockets()
    opened: list[AttemptContext] = []
    mine, responding = await pair.connect(for_move=True, opened=opened.append)
    theirs = await responding
    assert isinstance(opened[0].opening, Offer)
    assert opened[0].opening.greeting is None
    assert standing.local.port not in (mine.path.local.port, theirs.path.local.port)
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())
    await pair.close()


@virtual_time
@pytest.mark.parametrize("preset", ["full_cone", "symmetric_random", "udp_blocked"])
async def test_who_need_not_guess_or_cannot_keeps_no_socket(preset: str) -> None:
    internet = Internet()
    alice = natted(ALICE, internet, preset)
    assert await RandomProbe.setup(alice)
    await asyncio.sleep(0)
    alice.knows_itself.set()
    await asyncio.sleep(UPKEEP_S + 1)
    assert internet.udp == []
    assert alice.standing == {}, "nor does the record tell of one"
    await alice.close()


def test_a_flight_is_at_most_two_datagrams() -> None:
    head = {"attempt_id": ATTEMPT_ID, "af": 4, "route": RouteType.EXT, "started_at_us": 0, "port": 1}
    with pytest.raises(ValueError, match="flight"):
        Answer.model_validate({**head, "address": "203.0.113.1", "flight": (b"", b"", b"")})
