"""Plain pipes: only where both ends want one, and told from a tunnel by nobody's word but theirs."""

import asyncio
from dataclasses import replace

import pytest

from fake_network import FakeStream, Internet
from fake_node import ALICE, BOB, COMBO, contexts, handshakes, node
from virtual_time import virtual_time
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES, Frame, ProofFailed, Wishes
from warpfleet.net.interfaces import ConnectionLost, StreamEnded
from warpfleet.net.plain import PlainPipe
from warpfleet.plugins.attempt_context import Won

A, B = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000)
PLAIN, NONE = Wishes.PLAIN, Wishes.NONE


async def meet(alices: Wishes, bobs: Wishes, near: FakeStream, far: FakeStream) -> list[Won]:
    """Both ends of a pipe over a stream."""
    internet = Internet()
    a, b = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    a.wishes, b.wishes = alices, bobs
    async with asyncio.timeout(3):
        return list(await asyncio.gather(a.prove_stream(near), b.prove_stream(far)))


@virtual_time
@pytest.mark.parametrize(
    ("alices", "bobs", "sealed"), [(PLAIN, PLAIN, False), (PLAIN, NONE, True), (NONE, PLAIN, True), (NONE, NONE, True)]
)
async def test_a_pipe_is_plain_where_both_want_it(alices: Wishes, bobs: Wishes, sealed: bool) -> None:
    near, far = Internet().stream_pair(A, B)
    ends = await meet(alices, bobs, near, far)
    assert [end.path.sealed for end in ends] == [sealed, sealed]
    one, other = ends
    await one.send(b"hello")  # type: ignore[union-attr]
    assert await other.recv() == b"hello"  # type: ignore[union-attr]


@virtual_time
async def test_datagrams_stay_sealed() -> None:
    internet = Internet()
    a, b = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    a.wishes = b.wishes = PLAIN
    near, far = await a.network.open_udp(4), await b.network.open_udp(4)
    one, other = await asyncio.gather(a.prove_datagram(near, [far.local]), b.prove_datagram(far, [near.local]))
    assert one.path.sealed
    assert other.path.sealed
    assert a.peer_wishes == b.peer_wishes == PLAIN


def test_a_wish_that_was_changed_on_the_way_proves_nothing() -> None:
    """Neither towards plain, nor away from it."""
    for said, heard in ((NONE, PLAIN), (PLAIN, NONE)):
        initiator, responder = handshakes(wishes=(said, said))
        hello = initiator.opener()
        with pytest.raises(ProofFailed):
            responder.receive(forged(hello, heard))
        proof = responder.receive(hello).reply or b""
        with pytest.raises(ProofFailed):
            initiator.receive(forged(proof, heard))
        initiator.receive(proof)
        with pytest.raises(ProofFailed):
            responder.receive(forged(initiator.take(), heard))
        responder.receive(initiator.take())
        assert initiator.plain == responder.plain == (said is PLAIN)


def test_before_the_proof_nothing_is_plain() -> None:
    initiator, responder = handshakes(wishes=(PLAIN, PLAIN))
    responder.receive(initiator.opener())
    assert not initiator.plain
    assert not responder.plain, "a greeting may be an old one"


def forged(frame: bytes, wishes: Wishes) -> bytes:
    parsed = replace(Frame.parse(frame), wishes=wishes)
    assert len(frame) == FRAME_BYTES
    return parsed._body() + parsed.signature


@virtual_time
async def test_an_initiator_that_leaves_once_it_has_taken_the_pipe_breaks_it() -> None:
    internet = Internet()
    near, far = internet.stream_pair(A, B)
    a, b = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    a.wishes = b.wishes = PLAIN
    leading = asyncio.create_task(a.prove_stream(near))
    pipe = await b.prove_stream(far)
    assert not leading.done(), "it waits for AGREED"
    leading.cancel()
    with pytest.raises(ConnectionLost) as lost:
        await far.read(1)
    assert not isinstance(lost.value, StreamEnded)
    assert isinstance(pipe, PlainPipe)


@virtual_time
async def test_what_the_peer_said_before_it_left_can_be_read_after_a_send_in_vain() -> None:
    near, far = Internet().stream_pair(A, B)
    alice, bob = PlainPipe(near, "bob"), PlainPipe(far, "alice")
    await bob.send(b"413 too large")
    await bob.close()
    await asyncio.sleep(1)
    with pytest.raises(ConnectionLost):
        await alice.send(b"an upload")
    assert [await alice.recv(), await alice.recv()] == [b"413 too large", b""]
