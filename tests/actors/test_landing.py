"""Pipes pass to the program that is attached to a node: sockets as descriptors, others over a socket pair."""

import array
import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fake_network import FakeUdp, Internet
from fake_node import ALICE, BOB, COMBO, CONNECTION_ID, MALLORY, contexts, handshakes, node
from process_sockets import descriptors
from sealed import quic_pipes, tls_pipes
from warpfleet.actors import landing, words
from warpfleet.actors.lander import Lander
from warpfleet.actors.landing import Landing
from warpfleet.actors.served_pipe import ServedPipe
from warpfleet.core.combo import Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.net.handshake import Handshake, ProofFailed, Wishes
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.plain import PlainPipe
from warpfleet.net.quic import DatagramPath
from warpfleet.net.sockets import TcpStream
from warpfleet.net.tls import TlsPipe, Tunnel
from warpfleet.plugins.attempt_context import AttemptContext

A, B = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000)
BULK = bytes(range(256)) * 10_240
DEADLINE_S = 10.0


@dataclass
class Program:
    """What is attached to Alice, and the pipes that it has got."""

    landing: Landing
    arrived: "asyncio.Queue[tuple[str, Side, Pipe]]" = field(default_factory=asyncio.Queue)

    async def pipe(self) -> Pipe:
        connection_id, _, pipe = await self.arrived.get()
        assert connection_id == CONNECTION_ID
        return pipe


@asynccontextmanager
async def attached(path: Path) -> AsyncIterator[Program]:
    """A program that is attached to Alice; everything that it or its test opened is closed in the end."""
    before = descriptors()
    queue: asyncio.Queue[tuple[str, Side, Pipe]] = asyncio.Queue()
    async with asyncio.timeout(DEADLINE_S):
        listening = Landing(path, ALICE, lambda *arrived: queue.put_nowait(arrived))
        yield Program(listening, queue)
        await listening.close()
        while descriptors() != before:  # noqa: ASYNC110 - the loop closes what it has closed in its next turns
            await asyncio.sleep(0.01)
        assert not path.exists()  # noqa: ASYNC240 - looks at once


def context(side: Side = Side.INITIATOR) -> AttemptContext:
    internet = Internet()
    both = contexts(node(ALICE, internet, A.ip), node(BOB, internet, B.ip), COMBO)
    found = both[0]
    found.side, found.nonce = side, b"i" * 16 if side is Side.INITIATOR else b"r" * 16
    return found


def streams() -> tuple[TcpStream, TcpStream]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for opened in (near, far):
        opened.setblocking(False)
    return TcpStream(near), TcpStream(far)


def agreed(side: Side, wishes: Wishes = Wishes.NONE) -> tuple[Handshake, Handshake, bytes]:
    """Alice's end and Bob's, once the initiator is proved, and AGREED; she is on this side."""
    both = {"initiator": ALICE, "responder": BOB} if side is Side.INITIATOR else {"initiator": BOB, "responder": ALICE}
    one, other = handshakes(**both, wishes=(wishes, wishes))
    one.receive(other.receive(one.opener()).reply or b"")
    answer = other.receive(one.take()).reply
    assert answer
    return (one, other, answer) if side is Side.INITIATOR else (other, one, answer)


async def tunnel(stream: TcpStream, handshake: Handshake, answer: bytes, identity: Identity = BOB) -> Pipe:
    if handshake.side is Side.RESPONDER:
        await stream.write(answer)
    return await TlsPipe.open(stream, Tunnel(handshake.side, identity), handshake)


async def echoes(one: Pipe, other: Pipe) -> None:
    for sender, receiver in ((one, other), (other, one)):
        await sender.send(b"hello")
        assert await receiver.recv() == b"hello"


async def all_of(pipe: Pipe) -> bytes:
    return b"".join([chunk async for chunk in pipe])


@pytest.mark.parametrize("side", list(Side))
async def test_a_stream_becomes_a_pipe_in_the_programs_process(side: Side, tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, far = streams()
        local = near.local
        mine, theirs, answer = agreed(side)
        handing = asyncio.create_task(Lander(tmp_path / "alice").hand_over(context(side), near, mine, b""))
        bob = await tunnel(far, theirs, answer)
        handed = await handing
        assert handed
        assert (handed.path.transport, handed.path.local, handed.path.sealed) == (Transport.TCP, local, True)
        assert program.arrived.empty(), "not before it has won"
        handed.keep()
        alice = await program.pipe()
        assert (alice.peer, alice.path) == ("bob", handed.path)
        await echoes(alice, bob)
        await asyncio.gather(alice.close(), bob.close())


async def test_a_tunnel_that_the_peer_has_begun_goes_on_in_the_programs_process(tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, far = streams()
        mine, theirs, _ = agreed(Side.RESPONDER)
        begun = Tunnel(Side.INITIATOR, BOB)
        early = b"".join(begun.first_flight())
        handing = asyncio.create_task(Lander(tmp_path / "alice").hand_over(context(Side.RESPONDER), near, mine, early))
        bob = await TlsPipe.open(far, begun, theirs)
        handed = await handing
        assert handed
        handed.keep()
        alice = await program.pipe()
        await echoes(alice, bob)
        await asyncio.gather(alice.close(), bob.close())


async def test_a_plain_stream_is_handed_over_as_it_is(tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, far = streams()
        mine, *_ = agreed(Side.INITIATOR, Wishes.PLAIN)
        handed = await Lander(tmp_path / "alice").hand_over(context(), near, mine, b"")
        assert handed
        assert not handed.path.sealed
        handed.keep()
        alice, bob = await program.pipe(), PlainPipe(far, "alice")
        await echoes(alice, bob)
        await asyncio.gather(alice.close(), bob.close())


async def test_a_pipe_that_does_not_win_after_all_is_broken_off(tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, far = streams()
        mine, theirs, answer = agreed(Side.INITIATOR)
        handing = asyncio.create_task(Lander(tmp_path / "alice").hand_over(context(), near, mine, b""))
        bob = await tunnel(far, theirs, answer)
        handed = await handing
        assert handed
        await handed.close()
        with pytest.raises(ConnectionLost):
            await bob.recv()
        await bob.close()
        assert program.arrived.empty()


async def test_a_stranger_in_the_peers_place_wins_nothing(tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, far = streams()
        mine, theirs, answer = agreed(Side.INITIATOR)
        handing = asyncio.create_task(Lander(tmp_path / "alice").hand_over(context(), near, mine, b""))
        stranger = asyncio.create_task(tunnel(far, theirs, answer, MALLORY))
        with pytest.raises(ProofFailed, match="does not end at bob"):
            await handing
        await asyncio.gather(stranger, return_exceptions=True)
        far.close()
        assert program.arrived.empty()


async def test_where_no_program_is_the_stream_stays(tmp_path: Path) -> None:
    path = tmp_path / "alice"
    near, far = streams()
    mine, *_ = agreed(Side.INITIATOR)
    assert await Lander(path).hand_over(context(), near, mine, b"") is None
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert await Lander(path).hand_over(context(), near, mine, b"") is None
    await near.write(b"ours")
    assert await far.read_exactly(4) == b"ours"
    near.close()
    far.close()


async def test_a_program_that_dies_with_a_stream_is_no_win(tmp_path: Path) -> None:
    path = tmp_path / "alice"
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(path))
        dying.listen()
        near, far = streams()
        mine, *_ = agreed(Side.INITIATOR)
        handing = asyncio.create_task(Lander(path).hand_over(context(), near, mine, b""))
        dying.setblocking(False)
        connected, _ = await asyncio.get_running_loop().sock_accept(dying)
    connected.close()
    with pytest.raises(ConnectionLost, match="has died"):
        await handing
    with pytest.raises(ConnectionLost):
        await far.read(1)
    far.close()


# Pipes that stay where they are.


async def tls() -> tuple[Pipe, Pipe]:
    return await tls_pipes(*Internet().stream_pair(A, B))


async def quic() -> tuple[Pipe, Pipe]:
    internet = Internet()
    return await quic_pipes(FakeUdp(internet, A), FakeUdp(internet, B), relayed=True)


both_kinds = pytest.mark.parametrize("connect", [tls, quic])
Connect = Callable[[], Awaitable[tuple[Pipe, Pipe]]]


@asynccontextmanager
async def served(connect: Connect, path: Path) -> AsyncIterator[tuple[Pipe, Pipe, "asyncio.Task[bool]", Any]]:
    """Alice's end in the program, Bob's, what serves hers, and the pipe that it has."""
    async with attached(path) as program:
        near, bob = await connect()
        serving = asyncio.create_task(Lander(path).serve(context(), near))
        alice = await program.pipe()
        yield alice, bob, serving, near
        await asyncio.gather(alice.close(), bob.close())
        assert await serving


@both_kinds
async def test_a_served_pipe_carries_bytes_both_ways_and_each_end_by_itself(connect: Connect, tmp_path: Path) -> None:
    async with served(connect, tmp_path / "alice") as (alice, bob, _, near):
        assert isinstance(alice, ServedPipe)
        assert (alice.peer, alice.path) == ("bob", near.path)
        reading = asyncio.create_task(all_of(bob))
        await alice.send(BULK)
        await alice.send_eof()
        assert await reading == BULK
        with pytest.raises(ConnectionLost):
            await alice.send(b"more")
        reading = asyncio.create_task(all_of(alice))
        await bob.send(BULK)
        await bob.close()
        assert await reading == BULK


@both_kinds
async def test_closing_a_served_pipe_delivers_what_was_sent(connect: Connect, tmp_path: Path) -> None:
    async with served(connect, tmp_path / "alice") as (alice, bob, _, _near):
        waiting = asyncio.create_task(alice.recv())
        reading = asyncio.create_task(all_of(bob))
        await alice.send(BULK)
        await asyncio.gather(alice.close(), alice.close())
        assert await reading == BULK
        with pytest.raises(ConnectionLost):
            await waiting
        with pytest.raises(ConnectionLost):
            await alice.send(b"late")


@both_kinds
async def test_a_break_is_no_end_in_either_direction(connect: Connect, tmp_path: Path) -> None:
    async with served(connect, tmp_path / "one") as (alice, bob, _, _near):
        await alice.abort()
        with pytest.raises(ConnectionLost):
            await bob.recv()
    async with served(connect, tmp_path / "other") as (alice, bob, _, _near):
        await bob.abort()
        with pytest.raises(ConnectionLost):
            await alice.recv()
        with pytest.raises(ConnectionLost):
            await alice.send(b"x")


async def test_a_host_that_closes_meanwhile_breaks_the_pipe_off(tmp_path: Path) -> None:
    path = tmp_path / "alice"
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(path))
        stopped.listen()  # nobody takes what comes
        near, bob = await tls()
        serving = asyncio.create_task(Lander(path).serve(context(), near))
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        with pytest.raises(ConnectionLost):
            await bob.recv()
        await bob.close()


async def test_who_does_not_read_is_waited_for(tmp_path: Path) -> None:
    async with served(quic, tmp_path / "alice") as (alice, bob, _, _near):
        for sender, receiver in ((alice, bob), (bob, alice)):
            sending = asyncio.create_task(sender.send(4 * BULK))
            await asyncio.wait({sending}, timeout=0.5)
            assert not sending.done()
            left = len(4 * BULK)
            while left:
                left -= len(await receiver.recv())
            await sending


async def test_a_send_that_the_program_cancels_breaks_the_pipe(tmp_path: Path) -> None:
    async with served(quic, tmp_path / "alice") as (alice, bob, _, _near):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(alice.send(4 * BULK), 0.5)
        with pytest.raises(ConnectionLost, match="cancelled"):
            await alice.send(b"more")
        with pytest.raises(ConnectionLost):
            await all_of(bob)


async def test_a_program_that_is_gone_breaks_the_pipe_off(tmp_path: Path) -> None:
    async with served(tls, tmp_path / "alice") as (alice, bob, serving, _near):
        assert isinstance(alice, ServedPipe)
        alice._writer.transport.abort()  # as when the kernel closes what a killed process had open: first the bytes
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bob.recv(), 0.2)
        alice._words.close()
        with pytest.raises(ConnectionLost):
            await bob.recv()
        assert await serving


async def test_a_server_that_is_gone_is_no_end(tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, bob = await tls()
        serving = asyncio.create_task(Lander(tmp_path / "alice").serve(context(), near))
        alice = await program.pipe()
        waiting = asyncio.create_task(alice.recv())
        await asyncio.sleep(0.1)
        serving.cancel()
        with pytest.raises(ConnectionLost, match="has died"):
            await waiting
        await asyncio.gather(alice.close(), bob.close(), serving, return_exceptions=True)


async def test_a_pipe_that_the_program_drops_is_broken_off(tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        near, bob = await tls()
        serving = asyncio.create_task(Lander(tmp_path / "alice").serve(context(), near))
        await program.pipe()
        with pytest.raises(ConnectionLost):
            await bob.recv()
        assert await serving
        await bob.close()


async def test_what_the_path_is_now_is_told(tmp_path: Path) -> None:
    async with served(quic, tmp_path / "alice") as (alice, bob, _, near):
        assert alice.path.relayed
        direct = FakeUdp(Internet(), Endpoint(A.ip, 1001))
        near.move(DatagramPath(direct, B))
        while alice.path.relayed:  # noqa: ASYNC110 - a path tells nobody that it has changed
            await asyncio.sleep(0.01)
        assert alice.path == near.path
        await asyncio.gather(alice.abort(), bob.abort())


async def test_a_pipe_for_a_program_that_is_gone_is_not_served(tmp_path: Path) -> None:
    near, bob = await tls()
    assert not await Lander(tmp_path / "alice").serve(context(), near)
    await echoes(near, bob)


async def test_a_program_that_takes_no_more_gets_none_and_nobody_else_does(tmp_path: Path) -> None:
    path = tmp_path / "alice"
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind(str(path))
        full.listen(0)
        waiting.connect(str(path))
        near, far = streams()
        mine, *_ = agreed(Side.INITIATOR)
        with pytest.raises(ConnectionLost, match="takes no more"):
            await Lander(path).hand_over(context(), near, mine, b"")
        near.close()
        far.close()
        pipe, bob = await tls()
        assert await Lander(path).serve(context(), pipe)
        with pytest.raises(ConnectionLost):
            await bob.recv()
        await bob.abort()


# What may come to a landing.


async def knock(path: Path, data: bytes, given: int) -> bytes:
    """Send something with so many descriptors; what is answered until the end."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.setblocking(False)
        connected.connect(str(path))
        sockets = [socket.socket() for _ in range(given)]
        rights = array.array("i", [each.fileno() for each in sockets])
        connected.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if given else [])
        for each in sockets:
            each.close()
        answer = b""
        while data := await asyncio.get_running_loop().sock_recv(connected, 4096):
            answer += data
        return answer


def arrival(**other: object) -> bytes:
    head = words.Arrival(connection_id=CONNECTION_ID, side=Side.INITIATOR, peer="bob", peer_key=BOB.public.key)
    return head.model_copy(update=other).model_dump_json().encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "given"),
    [
        (b"\n", 1),
        (b"{}\n", 2),
        (b"x" * 5000, 1),
        (arrival(), 1),
        (arrival(connection_id="../x"), 1),
        (arrival(path=DatagramPath(FakeUdp(Internet(), A), B).path), 0),
        (arrival(path=DatagramPath(FakeUdp(Internet(), A), B).path), 3),
    ],
)
async def test_what_is_no_arrival_is_turned_away(data: bytes, given: int, tmp_path: Path) -> None:
    async with attached(tmp_path / "alice") as program:
        assert await knock(tmp_path / "alice", data, given) == b""
        assert program.arrived.empty()


async def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "_ARRIVAL_S", 0.05)
    async with attached(tmp_path / "alice"):
        assert await knock(tmp_path / "alice", b"half", 1) == b""


async def test_another_user_is_turned_away_at_either_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alice"
    async with attached(path) as program:
        monkeypatch.setattr(words, "is_of_this_user", lambda _: False)
        near, far = streams()
        mine, *_ = agreed(Side.INITIATOR)
        assert await Lander(path).hand_over(context(), near, mine, b"") is None
        with suppress(ConnectionResetError):  # what it sent was not read
            assert await knock(path, arrival(), 1) == b""
        near.close()
        far.close()
        assert program.arrived.empty()


async def test_a_deadline_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer makes no tunnel."""
    monkeypatch.setattr(landing, "_ARRIVAL_S", 0.1)
    async with attached(tmp_path / "alice") as program:
        near, far = streams()
        mine, *_ = agreed(Side.INITIATOR)
        with pytest.raises((ProofFailed, ConnectionLost)):
            await Lander(tmp_path / "alice").hand_over(context(), near, mine, b"")
        far.close()
        assert program.arrived.empty()
