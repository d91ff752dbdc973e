"""Both ends prove themselves over a stream, on which the tunnel begins: in what order, and that nothing hangs."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fake_network import DELAY_S, FakeStream, Internet
from fake_node import ALICE, BOB, MALLORY, handshakes, leave_at_once
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity
from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.proving import PeerClosed
from warpfleet.net.stream_pieces import read_piece
from warpfleet.net.stream_proof import prove_stream
from warpfleet.net.tls import TlsPipe, Tunnel

FROM_ALICE, FROM_BOB = Endpoint("203.0.113.1", 5), Endpoint("203.0.113.2", 6)
HANDSHAKE = 22  # RFC 8446 appendix B.1
Claim = Callable[[], Awaitable[str | None]]


def streams() -> tuple[FakeStream, FakeStream]:
    return Internet().stream_pair(FROM_ALICE, FROM_BOB)


def proving(
    stream: FakeStream, me: Handshake, claim: Claim = leave_at_once, *, identity: Identity = ALICE, **more: bytes | None
) -> Awaitable[str | None]:
    tunnel = Tunnel(me.side, identity if me.side is Side.INITIATOR else BOB)
    return prove_stream(stream, me, claim, tunnel, **more)  # type: ignore[arg-type]


class NotNamedError(WarpfleetError):
    pass


async def refuse() -> None:
    raise NotNamedError


async def move_turn() -> str:
    return "turn"


@virtual_time
async def test_a_pipe_may_move_to_a_stream() -> None:
    near, far = streams()
    a, b = handshakes()
    async with asyncio.timeout(20):
        assert await asyncio.gather(proving(near, a, move_turn), proving(far, b)) == ["turn", "turn"]
        await near.write(b"from alice")
        await far.write(b"from bob")
        assert await far.read(100) == b"from alice"
        assert await near.read(100) == b"from bob", "the tunnel that nobody needs has left nothing behind"


@virtual_time
@pytest.mark.parametrize("dialler", ["initiator", "responder", "both"])
async def test_whoever_dialled_a_pipe_comes_of_it(dialler: str) -> None:
    a, b = handshakes()
    near, far = streams()

    async def end(stream: FakeStream, me: Handshake, identity: Identity, *, dials: bool) -> TlsPipe:
        first = None if dials else await stream.read_exactly(FRAME_BYTES)
        tunnel = Tunnel(me.side, identity)
        await prove_stream(stream, me, leave_at_once, tunnel, first=first)
        return await TlsPipe.open(stream, tunnel, me, agreed=me.side is Side.RESPONDER)

    async with asyncio.timeout(5):
        alice, bob = await asyncio.gather(
            end(near, a, ALICE, dials=dialler != "responder"), end(far, b, BOB, dials=dialler != "initiator")
        )
        await alice.send(b"from alice")
        await bob.send(b"from bob")
        assert (await bob.recv(), await alice.recv()) == (b"from alice", b"from bob")


@virtual_time
async def test_what_the_initiator_says_and_when() -> None:
    near, far = streams()
    a, b = handshakes()
    saying = asyncio.create_task(proving(near, a))
    tunnel = Tunnel(Side.RESPONDER, BOB)
    said = [await read_piece(far), await read_piece(far)]
    assert (Frame.parse(said[0]).type, said[1][0], now_s()) == (FrameType.HELLO, HANDSHAKE, pytest.approx(DELAY_S))
    tunnel.feed(said[1])
    tunnel.shake_hands()
    await far.write((b.receive(said[0]).reply or b"") + tunnel.outgoing())
    await saying
    assert now_s() == pytest.approx(2 * DELAY_S), "nobody waits for the agreement"
    assert Frame.parse(await read_piece(far)).type is FrameType.TAKE


@virtual_time
async def test_a_responder_may_begin_its_tunnel_after_the_agreement() -> None:
    near, far = streams()
    a, b = handshakes()
    tunnels = Tunnel(Side.INITIATOR, ALICE), Tunnel(Side.RESPONDER, BOB)
    leading = asyncio.create_task(prove_stream(near, a, leave_at_once, tunnels[0]))
    hello, flight = await read_piece(far), await read_piece(far)
    await far.write(b.receive(hello).reply or b"")
    await leading
    await far.write(b.receive(await read_piece(far)).reply or b"")
    tunnels[1].feed(flight)
    async with asyncio.timeout(5):
        alice, bob = await asyncio.gather(
            TlsPipe.open(near, tunnels[0], a, agreed=False), TlsPipe.open(far, tunnels[1], b)
        )
        await bob.send(b"x")
        assert await alice.recv() == b"x"


@virtual_time
async def test_openers_that_cross_claim_once_and_greet_once() -> None:
    a, b = handshakes()
    near, far = streams()
    claims: list[float] = []
    said: list[bytes] = []
    write = near.write

    async def note(data: bytes) -> None:
        said.append(data)
        await write(data)

    async def claim() -> None:
        claims.append(now_s())

    near.write = note  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        await asyncio.gather(proving(near, a, claim), proving(far, b))
    assert len(claims) == 1
    kinds = [Frame.parse(data[:FRAME_BYTES]).type for data in said if is_frame(data)]
    assert kinds == [FrameType.HELLO, FrameType.TAKE]


@virtual_time
async def test_a_claim_that_raises_ends_a_stream() -> None:
    a, b = handshakes()
    near, far = streams()
    responding = asyncio.ensure_future(proving(far, b))
    with pytest.raises(NotNamedError):
        await proving(near, a, refuse)
    near.close()
    with pytest.raises(ConnectionLost):
        await responding


@virtual_time
async def test_a_stranger_on_a_stream_fails_the_proof() -> None:
    a, _ = handshakes()
    _, mallory = handshakes(responder=MALLORY)
    near, far = streams()
    pretending = asyncio.ensure_future(proving(far, mallory))
    with pytest.raises(ProofFailed):
        await proving(near, a)
    pretending.cancel()


@virtual_time
async def test_a_peer_that_closes_the_pipe_says_so() -> None:
    a, b = handshakes()
    near, far = streams()
    await far.write(b.close())
    with pytest.raises(PeerClosed):
        await proving(near, a)


@virtual_time
@pytest.mark.parametrize("says", [b"", b"\x16\x03\x03", handshakes()[1].opener()[:-1]])
async def test_a_stream_that_stops_half_way_costs_no_more_than_the_callers_time(says: bytes) -> None:
    near, far = streams()
    if says:
        await far.write(says)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await proving(near, handshakes()[0])
    assert now_s() == pytest.approx(3)


@virtual_time
@pytest.mark.parametrize(
    "says", [b"SSH-2.0-", bytes(FRAME_BYTES - 1), b"\x16\x03\x03\xff\xff", b"\x17\x03\x03\0\0", b"HTTP/1.1 400"]
)
async def test_what_is_neither_a_frame_nor_a_record_ends_it_at_once(says: bytes) -> None:
    near, far = streams()
    await far.write(says)
    with pytest.raises(ProofFailed):
        await proving(near, handshakes()[0])
    assert now_s() == pytest.approx(DELAY_S)


@virtual_time
async def test_a_stream_that_ends_half_way_is_lost() -> None:
    near, far = streams()
    far.close()
    with pytest.raises(ConnectionLost):
        await proving(near, handshakes()[0])


async def handed_over() -> tuple[TlsPipe, Handshake, FakeStream]:
    """Alice's pipe as soon as she has it, Bob's proof, and the end of the stream where he has not said a word yet."""
    near, far = streams()
    a, b = handshakes()
    client, server = Tunnel(Side.INITIATOR, ALICE), Tunnel(Side.RESPONDER, BOB)
    [flight] = client.first_flight()
    server.feed(flight)
    server.shake_hands()
    a.receive(b.receive(a.opener()).reply or b"")
    client.feed(server.outgoing())
    began_s = now_s()
    await prove_stream(near, a, leave_at_once, client)
    pipe = await TlsPipe.open(near, client, a, agreed=False)
    assert now_s() == began_s, "what signals have said is not said again"
    return pipe, b, far


@virtual_time
async def test_what_signals_have_said_leaves_nothing_to_wait_for() -> None:
    pipe, bob, far = await handed_over()
    await pipe.send(b"x")
    take = await read_piece(far)
    assert bob.receive(take).reply
    assert now_s() == pytest.approx(DELAY_S)


@virtual_time
@pytest.mark.parametrize("says", ["nothing", "half of it", "its end", "garbage"])
async def test_a_pipe_whose_peer_never_agrees_breaks_within_seconds(says: str) -> None:
    pipe, bob, far = await handed_over()
    agreed = bob.receive(await read_piece(far)).reply or b""
    began_s = now_s()
    if says == "its end":
        far.close()
    elif says != "nothing":
        await far.write(agreed[:50] if says == "half of it" else bytes(FRAME_BYTES))
    with pytest.raises(ConnectionLost):
        await pipe.recv()
    assert now_s() - began_s <= 3.0 + DELAY_S
    with pytest.raises(ConnectionLost):
        await pipe.recv()
    with pytest.raises(ConnectionLost, match="closed by the peer" if says == "its end" else "did not agree"):
        await pipe.send(b"more")
    await pipe.close()
    assert far.other
    assert far.other.closed


@virtual_time
async def test_whoever_stops_waiting_for_the_agreement_loses_nothing_of_it() -> None:
    pipe, bob, far = await handed_over()
    agreed = bob.receive(await read_piece(far)).reply or b""
    for part in (agreed[:50], agreed[50:]):
        await far.write(part)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pipe.recv(), 2 * DELAY_S)
    assert pipe._agreed
