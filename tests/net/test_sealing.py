"""Only the proved peer is at the other end of a tunnel: who takes a path over once the proof is done gets nothing."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, COMBO, MALLORY, contexts, handshakes, node
from sealed import proved, quic_pipes
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.net.certificate import certificate_of, key_in, key_of
from warpfleet.net.handshake import Frame, FrameType, ProofFailed, is_frame
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.proving import PeerClosed
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.quic_engine import QuicEngine
from warpfleet.net.tls import TlsPipe, Tunnel

A, B = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000)
Ends = tuple[Any, Any]


async def ends(*opening: Awaitable[Any]) -> list[Any]:
    """What becomes of each end, within a few seconds."""
    return await asyncio.gather(*(asyncio.wait_for(each, 3) for each in opening), return_exceptions=True)


async def tls_ends(alice: Identity, bob: Identity, *, alices_proof: int = 0) -> Ends:
    near, far = Internet().stream_pair(A, B)
    pairs = [proved(), handshakes(initiator=MALLORY)]
    initiator, responder = pairs[alices_proof][0], pairs[0][1]
    one, other = await ends(
        TlsPipe.open(near, Tunnel(Side.INITIATOR, alice), initiator),
        TlsPipe.open(far, Tunnel(Side.RESPONDER, bob), responder),
    )
    return one, other


async def quic_ends(alice: Identity, bob: Identity, *, alices_proof: int = 0) -> Ends:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    pairs = [proved(), handshakes(initiator=MALLORY)]
    initiator, responder = pairs[alices_proof][0], pairs[0][1]
    client, server = QuicEngine(Side.INITIATOR, alice, ATTEMPT_ID), QuicEngine(Side.RESPONDER, bob, ATTEMPT_ID)
    for data in client.connect(asyncio.get_running_loop().time()):
        a.send_to(data, B)
    one, other = await ends(
        QuicPipe.open(client, DatagramPath(a, B), initiator), QuicPipe.open(server, DatagramPath(b, A), responder)
    )
    assert internet.open_sockets() == [] or not isinstance(one, Exception)
    return one, other


both_kinds = pytest.mark.parametrize("meet", [tls_ends, quic_ends])


@virtual_time
@both_kinds
async def test_the_peer_itself_is_let_in(meet: Any) -> None:
    alice, bob = await meet(ALICE, BOB)
    assert (alice.peer, bob.peer) == ("bob", "alice")


@virtual_time
@both_kinds
async def test_a_stranger_who_takes_the_responders_end_over_hears_nothing(meet: Any) -> None:
    alice, stranger = await meet(ALICE, MALLORY)
    assert isinstance(alice, ProofFailed)
    assert isinstance(stranger, TimeoutError | ConnectionLost), "no proof ever came to it"


@virtual_time
@both_kinds
async def test_a_stranger_who_takes_the_initiators_end_over_is_not_let_in(meet: Any) -> None:
    _, bob = await meet(MALLORY, BOB, alices_proof=1)
    assert isinstance(bob, ProofFailed)


@virtual_time
@pytest.mark.parametrize("kind", [FrameType.HELLO, FrameType.TAKE, FrameType.CLOSE])
async def test_no_other_frame_of_the_peers_own_opens_the_tunnel(kind: FrameType) -> None:
    near, far = Internet().stream_pair(A, B)
    initiator, responder = proved()
    frames = {FrameType.HELLO: initiator.opener, FrameType.TAKE: initiator.take, FrameType.CLOSE: initiator.close}
    initiator.seal = frames[kind]  # type: ignore[method-assign]
    _, bob = await ends(
        TlsPipe.open(near, Tunnel(Side.INITIATOR, MALLORY), initiator),
        TlsPipe.open(far, Tunnel(Side.RESPONDER, BOB), responder),
    )
    assert isinstance(bob, ProofFailed)


@virtual_time
async def test_garbage_is_no_tunnel() -> None:
    near, far = Internet().stream_pair(A, B)
    await near.write(bytes(100))
    with pytest.raises(ProofFailed):
        await TlsPipe.open(far, Tunnel(Side.RESPONDER, BOB), proved()[1])


@virtual_time
async def test_the_tunnel_costs_the_initiator_no_round_trip() -> None:
    internet = Internet()
    a, b = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    for datagrams in (True, False):
        began_s = now_s()
        if datagrams:
            near, far = await a.network.open_udp(4), await b.network.open_udp(4)
            alice = asyncio.create_task(a.prove_datagram(near, [far.local]))
            bob = asyncio.create_task(b.prove_datagram(far, [near.local]))
        else:
            near_end, far_end = internet.stream_pair(A, B)
            alice = asyncio.create_task(a.prove_stream(near_end))
            bob = asyncio.create_task(b.prove_stream(far_end))
        await alice
        took_s = 4 * DELAY_S if datagrams else 2 * DELAY_S
        assert now_s() - began_s == pytest.approx(took_s), "the greeting's round trip, and the agreement's of datagrams"
        await bob
        assert now_s() - began_s == pytest.approx(took_s + DELAY_S)
        a._turn.release()
        b._turn = asyncio.Lock()


@virtual_time
@pytest.mark.parametrize("nth", range(12))
async def test_any_one_datagram_may_get_lost(nth: int) -> None:
    internet = Internet()
    sent = 0

    def lose(_data: bytes, _source: Endpoint, _target: Endpoint) -> bool:
        nonlocal sent
        sent += 1
        return sent == nth + 1

    internet.loses = lose
    a, b = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    near, far = await a.network.open_udp(4), await b.network.open_udp(4)
    async with asyncio.timeout(2):
        alice, bob = await asyncio.gather(a.prove_datagram(near, [far.local]), b.prove_datagram(far, [near.local]))
        await alice.send(b"hello")
        assert await bob.recv() == b"hello"


@virtual_time
async def test_a_first_flight_that_overtakes_its_frame_is_kept() -> None:
    internet = Internet()
    a, b = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    near, far = await a.network.open_udp(4), await b.network.open_udp(4)
    carry = internet.carry

    def slowly(data: bytes, source: Endpoint, target: Endpoint) -> None:
        late = is_frame(data) and Frame.parse(data).type in (FrameType.TAKE, FrameType.AGREED)
        asyncio.get_running_loop().call_later(0.01 if late else 0, carry, data, source, target)

    internet.carry = slowly  # type: ignore[method-assign]
    alice, _ = await asyncio.gather(a.prove_datagram(near, [far.local]), b.prove_datagram(far, [near.local]))
    assert now_s() < 6 * DELAY_S + 0.03, "nothing had to be sent again"
    assert len([data for data, _ in near.inner.sent if len(data) >= 1200]) == 2, "a client's two padded flights"
    assert alice.peer == "bob"


@virtual_time
async def test_a_responder_that_gives_up_tells_the_initiator() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    initiator, responder = proved()
    giving_up = asyncio.create_task(
        QuicPipe.open(QuicEngine(Side.RESPONDER, BOB, ATTEMPT_ID), DatagramPath(b, A), responder)
    )
    client = QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID)
    client.connect(asyncio.get_running_loop().time())  # and loses its first flight
    waiting = asyncio.create_task(QuicPipe.open(client, DatagramPath(a, B), initiator))
    await asyncio.sleep(0.01)
    giving_up.cancel()
    with pytest.raises(PeerClosed):
        await waiting
    assert internet.open_sockets() == []


@virtual_time
async def test_a_closing_frame_does_not_end_a_sealed_pipe() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    alice, bob = await quic_pipes(a, b)
    b.send_to(proved()[1].close(), A)
    await bob.send(b"still here")
    assert await alice.recv() == b"still here"


def test_a_certificate_is_of_the_nodes_key_and_always_the_same() -> None:
    certificate, _ = certificate_of(ALICE)
    assert key_in(certificate) == ALICE.public.key
    assert key_of(certificate.public_bytes(Encoding.DER)) == ALICE.public.key
    assert certificate_of(Identity.from_seed("alice", ALICE.seed))[0] == certificate
    assert key_of(b"no certificate") is None
