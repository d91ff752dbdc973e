"""What every pipe promises, over TLS on a stream, over QUIC on datagrams, and plain."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fake_network import DELAY_S, FakeUdp, Internet
from sealed import quic_pipes, tls_pipes
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ByteStream, ConnectionLost, Pipe
from warpfleet.net.pipe import RECV_BYTES
from warpfleet.net.plain import PlainPipe
from warpfleet.net.quic_engine import WINDOW_BYTES
from warpfleet.net.stream_pipe import StreamPipe

A, B = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000)
BULK = bytes(range(256)) * 10_240  # two windows and a half

Pair = tuple[Pipe, Pipe]
Connect = Callable[[Internet], Awaitable[Pair]]


async def tls(internet: Internet) -> Pair:
    return await tls_pipes(*internet.stream_pair(A, B))


async def quic(internet: Internet) -> Pair:
    return await quic_pipes(FakeUdp(internet, A), FakeUdp(internet, B))


async def plain(internet: Internet) -> Pair:
    near, far = internet.stream_pair(A, B)
    return PlainPipe(near, "bob"), PlainPipe(far, "alice")


every_kind = pytest.mark.parametrize("connect", [tls, quic, plain])


async def all_of(pipe: Pipe) -> bytes:
    return b"".join([chunk async for chunk in pipe])


@virtual_time
@every_kind
async def test_bytes_of_any_number_arrive_in_order_both_ways(connect: Connect) -> None:
    alice, bob = await connect(Internet())
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for pipe in (alice, bob):
            group.create_task(sent_in_full(pipe))
        received = [group.create_task(all_of(pipe)) for pipe in (alice, bob)]
    assert [task.result() == BULK for task in received] == [True, True]


async def sent_in_full(pipe: Pipe) -> None:
    await pipe.send(BULK)
    await pipe.send(b"")
    await pipe.send_eof()


@virtual_time
@every_kind
async def test_no_more_is_received_than_is_asked_for(connect: Connect) -> None:
    alice, bob = await connect(Internet())
    await alice.send(b"three words here")
    assert [await bob.recv(5), await bob.recv(1), await bob.recv(100)] == [b"three", b" ", b"words here"]


@virtual_time
@every_kind
@pytest.mark.parametrize("max_bytes", [0, -1])
async def test_less_than_one_byte_cannot_be_asked_for(connect: Connect, max_bytes: int) -> None:
    alice, bob = await connect(Internet())
    await alice.send(b"some")
    with pytest.raises(ValueError, match="1 at least"):
        await bob.recv(max_bytes)
    assert await bob.recv() == b"some"
    await asyncio.gather(alice.close(), bob.close())


@virtual_time
@every_kind
async def test_after_its_end_a_pipe_still_receives(connect: Connect) -> None:
    alice, bob = await connect(Internet())
    await bob.send(b"a greeting")
    await asyncio.sleep(2 * DELAY_S)
    assert await alice.recv(2) == b"a "
    await alice.send(b"a question")
    await alice.send_eof()
    await alice.send_eof()
    assert await all_of(bob) == b"a question"
    await bob.send(b", an answer")
    await bob.close()
    assert await all_of(alice) == b"greeting, an answer"
    with pytest.raises(ConnectionLost):
        await alice.send(b"more")


@virtual_time
@every_kind
async def test_what_was_sent_before_a_pipe_was_closed_arrives_and_then_its_end(connect: Connect) -> None:
    internet = Internet()
    alice, bob = await connect(internet)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        reading = group.create_task(all_of(bob))
        await alice.send(BULK)
        await alice.close()
    assert reading.result() == BULK
    assert await bob.recv() == b""
    await bob.close()
    assert internet.open_sockets() == []


@virtual_time
@every_kind
async def test_closed_here_nothing_works_any_more(connect: Connect) -> None:
    alice, _ = await connect(Internet())
    waiting = asyncio.create_task(alice.recv())
    await asyncio.sleep(0)
    await asyncio.gather(alice.close(), alice.close())
    with pytest.raises(ConnectionLost):
        await waiting
    with pytest.raises(ConnectionLost):
        await alice.recv()
    with pytest.raises(ConnectionLost):
        await alice.send(b"late")
    await alice.close()


@virtual_time
@every_kind
async def test_a_pipe_that_is_broken_off_has_no_end(connect: Connect) -> None:
    internet = Internet()
    alice, bob = await connect(internet)
    await alice.send(b"half of it")
    await asyncio.sleep(2 * DELAY_S)
    await alice.abort()
    await alice.close()
    assert await bob.recv() == b"half of it"
    with pytest.raises(ConnectionLost):
        await bob.recv()
    with pytest.raises(ConnectionLost):
        await alice.recv()
    await bob.close()
    assert internet.open_sockets() == []


@virtual_time
@every_kind
async def test_a_send_that_is_cancelled_breaks_the_pipe(connect: Connect) -> None:
    alice, bob = await connect(Internet())
    if isinstance(alice, StreamPipe):
        only_half_is_taken_by(alice._stream)  # as QUIC's window takes less than this
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(alice.send(BULK), 1)
    with pytest.raises(ConnectionLost):
        await alice.send(b"more")
    await alice.close()
    with pytest.raises(ConnectionLost):
        await all_of(bob)
    await bob.close()


def only_half_is_taken_by(stream: ByteStream) -> None:
    write = stream.write

    async def half(data: bytes) -> None:
        await write(data[: len(data) // 2])
        await asyncio.Event().wait()

    stream.write = half  # type: ignore[method-assign]


@virtual_time
@every_kind
async def test_leaving_the_block_closes_the_pipe(connect: Connect) -> None:
    internet = Internet()
    alice, bob = await connect(internet)
    async with bob, alice:
        pass
    assert internet.open_sockets() == []
    assert len(asyncio.all_tasks()) == 1


@virtual_time
@every_kind
async def test_a_peer_that_neither_reads_nor_closes_is_not_waited_for_for_ever(connect: Connect) -> None:
    alice, _ = await connect(Internet())
    began_s = now_s()
    await alice.send(b"unread")
    await alice.close()
    assert now_s() - began_s < 6


@virtual_time
async def test_a_stream_that_was_cut_off_is_no_end() -> None:
    internet = Internet()
    near, far = internet.stream_pair(A, B)
    alice, bob = await tls_pipes(near, far)
    await alice.send(b"half of it")
    near.close()
    assert await bob.recv() == b"half of it"
    with pytest.raises(ConnectionLost):
        await bob.recv()


@virtual_time
async def test_a_stream_that_was_tampered_with_is_lost() -> None:
    near, far = Internet().stream_pair(A, B)
    _, bob = await tls_pipes(near, far)
    await near.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record of that length
    with pytest.raises(ConnectionLost, match="broken"):
        await bob.recv()
    with pytest.raises(ConnectionLost):
        await bob.send(b"x")
    await bob.close()
    assert far.closed


@virtual_time
async def test_nothing_that_is_sent_can_be_read_on_the_way() -> None:
    internet, seen = Internet(), bytearray()
    near, far = internet.stream_pair(A, B)
    write = near.write

    async def tapped(data: bytes) -> None:
        seen.extend(data)
        await write(data)

    near.write = tapped  # type: ignore[method-assign]
    streams = await tls_pipes(near, far)
    a = FakeUdp(internet, A)
    datagrams = await quic_pipes(a, FakeUdp(internet, B))
    for alice, bob in (streams, datagrams):
        await alice.send(b"a secret of some length")
        assert await bob.recv() == b"a secret of some length"
    for data, _ in a.sent:
        seen.extend(data)
    assert b"secret" not in seen


@virtual_time
async def test_what_a_pipe_says_of_its_path() -> None:
    internet = Internet()
    near, far = FakeUdp(internet, A), FakeUdp(internet, B)
    near.through = Endpoint("198.51.100.9", 3478)
    alice, bob = await quic_pipes(near, far, relayed=True)
    assert (alice.path.transport, alice.path.relayed, alice.path.local, alice.path.remote) == (
        Transport.UDP,
        True,
        A,
        B,
    )
    assert repr(alice) == (
        "<pipe to bob over udp, relayed through 198.51.100.9:3478: 203.0.113.1:1000 -> 203.0.113.2:2000>"
    )
    assert repr(bob) == "<pipe to alice over udp, relayed: 203.0.113.2:2000 -> 203.0.113.1:1000>"
    (_, over_tcp), (unsealed, _) = await tls(internet), await plain(internet)
    assert repr(over_tcp) == "<pipe to alice over tcp: 203.0.113.2:2000 -> 203.0.113.1:1000>"
    assert repr(unsealed) == "<pipe to bob over tcp, not sealed: 203.0.113.1:1000 -> 203.0.113.2:2000>"


@virtual_time
async def test_over_quic_a_sender_waits_for_its_reader() -> None:
    alice, bob = await quic_pipes(*two_sockets(Internet()))
    taken = 0

    async def send() -> None:
        nonlocal taken
        while True:
            await alice.send(bytes(1000))
            taken += 1000

    sending = asyncio.create_task(send())
    await asyncio.sleep(60)
    assert taken == pytest.approx(2 * WINDOW_BYTES, abs=2000), "a window at each end"
    while len(await bob.recv()) == RECV_BYTES:
        continue
    await asyncio.sleep(60)
    assert taken > 2.3 * WINDOW_BYTES, "and goes on when he reads"
    sending.cancel()


def two_sockets(internet: Internet) -> tuple[FakeUdp, FakeUdp]:
    return FakeUdp(internet, A), FakeUdp(internet, B)


@virtual_time
async def test_over_tcp_a_sender_waits_for_its_stream() -> None:
    near, far = Internet().stream_pair(A, B)
    alice, _ = await tls_pipes(near, far)
    full = asyncio.Event()

    async def blocked(_data: bytes) -> None:
        await full.wait()

    near.write = blocked  # type: ignore[method-assign]
    sending = asyncio.create_task(alice.send(b"x"))
    await asyncio.sleep(60)
    assert not sending.done()
    full.set()
    await sending
