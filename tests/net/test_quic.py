"""The pipe over QUIC: its paths, its silences, and what strangers send to its socket."""

import asyncio
import gc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, MALLORY, handshakes
from sealed import proved, quic_pipes
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.quic_engine import IDLE_S, QuicEngine

A, B, C = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000), Endpoint("203.0.113.3", 3000)
RELAY_A, RELAY_B = Endpoint("198.51.100.9", 1), Endpoint("198.51.100.9", 2)
BULK = bytes(range(256)) * 2048

Paths = tuple[DatagramPath, DatagramPath]


def paths(internet: Internet, a: Endpoint, b: Endpoint, *, relayed: bool = False) -> Paths:
    """A further path, as each end has it."""
    near, far = FakeUdp(internet, a), FakeUdp(internet, b)
    return DatagramPath(near, b, relayed), DatagramPath(far, a, relayed)


async def relayed_pipes(internet: Internet) -> tuple[QuicPipe, QuicPipe]:
    return await quic_pipes(FakeUdp(internet, RELAY_A), FakeUdp(internet, RELAY_B), relayed=True)


async def received(pipe: QuicPipe, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (chunk := await pipe.recv(size - len(data))):
        data += chunk
    return bytes(data)


@virtual_time
async def test_a_pipe_that_moves_to_another_path_and_back_loses_no_byte() -> None:
    internet = Internet()
    alice, bob = await relayed_pipes(internet)
    [relayed] = alice.paths
    direct, directly_back = paths(internet, A, B)
    reading = asyncio.create_task(received(bob, 4 * len(BULK)))
    for path in (direct, relayed, direct, relayed):
        sending = asyncio.create_task(alice.send(BULK))
        await asyncio.sleep(DELAY_S / 2)
        assert not reading.done(), "some of it is under way"
        alice.move(path)
        if path == direct:
            bob.move(directly_back)
        assert alice.path.relayed == path.relayed
        await sending
    assert await reading == 4 * BULK
    assert directly_back.socket.packets_sent, "the peer has moved, too"


@virtual_time
async def test_what_is_under_way_on_the_former_path_still_arrives() -> None:
    internet = Internet()
    alice, bob = await relayed_pipes(internet)
    direct, directly_back = paths(internet, A, B)
    bob.move(directly_back)
    await alice.send(b"by the old way")
    await asyncio.sleep(0)
    alice.move(direct)
    assert await bob.recv() == b"by the old way"
    assert len(direct.socket.sent) == 1, "the probe that the move is"  # type: ignore[attr-defined]


@virtual_time
async def test_a_path_that_loses_everything_is_left_without_a_loss() -> None:
    internet = Internet()
    alice, bob = await relayed_pipes(internet)
    [relayed], [relayed_back] = alice.paths, bob.paths
    direct, directly_back = paths(internet, A, B)
    alice.move(direct)
    bob.move(directly_back)
    internet.loses = lambda _data, source, _target: source in (A, B)
    await alice.send(b"into the void")
    await asyncio.sleep(1)
    alice.move(relayed)
    bob.move(relayed_back)
    assert await bob.recv() == b"into the void"


@virtual_time
async def test_a_path_that_is_dropped_is_closed_but_never_the_one_in_use() -> None:
    internet = Internet()
    alice, bob = await relayed_pipes(internet)
    [relayed] = alice.paths
    direct, directly_back = paths(internet, A, B)
    bob.move(directly_back)
    alice.move(direct)
    assert alice.paths == (relayed, direct)
    alice.drop(direct)
    alice.drop(relayed)
    alice.drop(relayed)
    assert alice.paths == (direct,)
    assert (relayed.socket.closed, direct.socket.closed) == (True, False)  # type: ignore[attr-defined]
    await alice.send(b"hello")
    assert await bob.recv() == b"hello"


@virtual_time
async def test_where_a_socket_goes_the_pipe_falls_back_to_what_it_has() -> None:
    internet = Internet()
    alice, bob = await relayed_pipes(internet)
    direct, directly_back = paths(internet, A, B)
    bob.move(directly_back)
    alice.move(direct)
    direct.socket.close()
    await asyncio.sleep(0.1)
    assert alice.path.relayed
    await alice.send(b"hello")
    assert await bob.recv() == b"hello"


@virtual_time
async def test_without_any_path_it_is_lost() -> None:
    internet = Internet()
    alice, _ = await relayed_pipes(internet)
    reading = asyncio.create_task(alice.recv())
    alice.paths[0].socket.close()
    with pytest.raises(ConnectionLost, match="path is gone"):
        await reading


@virtual_time
async def test_closing_closes_every_path() -> None:
    internet = Internet()
    alice, bob = await relayed_pipes(internet)
    for pipe, path in zip((alice, bob), paths(internet, A, B), strict=True):
        pipe.move(path)
    await asyncio.gather(alice.close(), bob.close())
    assert internet.open_sockets() == []
    assert len(asyncio.all_tasks()) == 1
    with pytest.raises(ConnectionLost):
        alice.move(paths(internet, A, B)[0])


@virtual_time
async def test_a_silent_pipe_stays_and_keeps_the_mapping_of_a_nat() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    alice, bob = await quic_pipes(a, b)
    for _ in range(20):
        before = a.packets_sent
        await asyncio.sleep(25)
        assert a.packets_sent > before, "NATs forget after 30 s"
    await bob.send(b"still here")
    assert await alice.recv() == b"still here"


@virtual_time
async def test_an_answer_takes_the_acknowledgement_along() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    alice, bob = await quic_pipes(a, b)
    await asyncio.sleep(1)
    before = a.packets_sent, b.packets_sent
    for _ in range(10):
        await alice.send(b"question")
        await bob.send(await bob.recv())
        assert await alice.recv() == b"question"
    await asyncio.sleep(1)
    sent = a.packets_sent - before[0], b.packets_sent - before[1]
    assert sent == (11, 10), "the last answer is acknowledged by itself"


@virtual_time
async def test_a_peer_that_vanishes_is_noticed() -> None:
    internet = Internet()
    alice, _ = await quic_pipes(FakeUdp(internet, A), FakeUdp(internet, B))
    await asyncio.sleep(11)  # it has sent a keepalive meanwhile, and has just been answered
    internet.loses = lambda _data, _source, _target: True
    began_s = now_s()
    with pytest.raises(ConnectionLost, match="nothing was heard"):
        await alice.recv()
    assert now_s() - began_s == pytest.approx(IDLE_S, abs=1.1)
    with pytest.raises(ConnectionLost):
        await alice.send(b"x")
    await alice.close()
    assert now_s() - began_s == pytest.approx(IDLE_S, abs=1.1), "nobody is left to be waited for"


@virtual_time
async def test_the_end_is_no_clean_one_where_the_peer_did_not_take_all() -> None:
    internet = Internet()
    alice, bob = await quic_pipes(FakeUdp(internet, A), FakeUdp(internet, B))
    sending = asyncio.create_task(alice.send(8 * BULK))
    await asyncio.sleep(20)
    await alice.close()
    with pytest.raises(ConnectionLost):
        await sending
    with pytest.raises(ConnectionLost):
        await received(bob, 8 * len(BULK))


@virtual_time
async def test_a_slow_reader_is_waited_for_as_long_as_it_goes_on() -> None:
    alice, bob = await quic_pipes(FakeUdp(internet := Internet(), A), FakeUdp(internet, B))
    await alice.send(2 * BULK)
    closing = asyncio.create_task(alice.close())
    began_s, taken = now_s(), bytearray()
    while chunk := await bob.recv(90_000):
        taken += chunk
        await asyncio.sleep(0.9)
    await closing
    assert taken == 2 * BULK
    assert now_s() - began_s > 10


@virtual_time
async def test_one_lost_farewell_leaves_no_peer_behind() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    alice, bob = await quic_pipes(a, b)
    await asyncio.gather(alice.send_eof(), bob.send_eof())
    await asyncio.sleep(1)
    before = a.packets_sent
    internet.loses = lambda _data, source, _target: source == A and a.packets_sent == before + 1
    began_s = now_s()
    await alice.close()
    await asyncio.sleep(1)
    with pytest.raises(ConnectionLost, match="closed by the peer"):
        await bob.send(b"x")
    assert now_s() - began_s < 2


@virtual_time
@pytest.mark.parametrize(
    "data",
    [b"", b"\x40", bytes(1200), b"\xc0\0\0\0\1\x08" + bytes(1300), bytes([0x57]) * FRAME_BYTES],
)
async def test_noise_and_strangers_change_nothing(data: bytes) -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    alice, bob = await quic_pipes(a, b)
    FakeUdp(internet, C).send_to(handshakes(responder=MALLORY)[1].close(), A)
    for source in (b, FakeUdp(internet, C)):
        source.send_to(data, A)
    await bob.send(b"from bob")
    assert await alice.recv() == b"from bob"


@virtual_time
async def test_noise_before_the_first_flight_does_not_keep_it_out() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    initiator, responder = proved()
    responding = asyncio.create_task(
        QuicPipe.open(QuicEngine(Side.RESPONDER, BOB, ATTEMPT_ID), DatagramPath(b, A), responder)
    )
    a.send_to(b"\xc0\0\0\0\1\x08" + bytes(1300), B)  # the shape of an Initial packet that nobody can decrypt
    await asyncio.sleep(0.1)
    client = QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID)
    for data in client.connect(asyncio.get_running_loop().time()):
        a.send_to(data, B)
    alice = await QuicPipe.open(client, DatagramPath(a, B), initiator)
    await alice.send(b"hello")
    assert await (await responding).recv() == b"hello"


@virtual_time
async def test_a_frame_of_the_proof_that_comes_again_is_answered_again() -> None:
    internet = Internet()
    a, b = FakeUdp(internet, A), FakeUdp(internet, B)
    await quic_pipes(a, b)
    initiator, responder = proved()
    a.send_to(initiator.take(), B)
    await asyncio.sleep(1)
    answer = responder.receive(initiator.take()).reply
    assert [data for data, _ in b.sent if data == answer]


# The engine alone


def engines() -> tuple[QuicEngine, QuicEngine]:
    return QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID), QuicEngine(Side.RESPONDER, BOB, ATTEMPT_ID)


def exchange(
    client: QuicEngine,
    server: QuicEngine,
    flight: list[bytes],
    *,
    began_s: float = 0.0,
    passes: Callable[[int], bool] = lambda _count: True,
) -> None:
    """Carry datagrams to and fro, 10 ms each way, for twenty seconds."""
    now_s, count = began_s, 0
    for _ in range(1000):
        for receiver in (server, client):
            now_s += 0.01
            for data in flight:
                count += 1
                if passes(count):
                    receiver.receive(data, now_s)
            if receiver.due_s is not None and now_s >= receiver.due_s:
                receiver.tick(now_s)
            flight = receiver.outgoing(now_s)


def test_only_the_client_learns_a_key() -> None:
    client, server = engines()
    exchange(client, server, client.connect(0.0))
    assert (client.established, server.established) == (True, True)
    assert (client.peer_key, server.peer_key) == (BOB.public.key, None)


@settings(max_examples=20)
@given(st.sets(st.integers(1, 30), max_size=6))
def test_whatever_gets_lost_bytes_arrive_once_and_in_order(lost: set[int]) -> None:
    client, server = engines()
    flight = client.connect(0.0)
    exchange(client, server, flight, passes=lambda count: count not in lost)
    assert client.established
    assert server.established
    client.write(BULK[:20_000], end=True)
    exchange(client, server, client.outgoing(20.0), began_s=20.0)
    assert (server.read(len(BULK)), server.ended) == (BULK[:20_000], True)


def test_a_datagram_has_the_same_size_whatever_the_keys() -> None:
    sizes = set()
    for _ in range(20):
        client, server = engines()
        seen: list[int] = []
        flight = client.connect(0.0)
        for receiver in (server, client, server, client):
            seen += [len(data) for data in flight]
            for data in flight:
                receiver.receive(data, 0.01)
            flight = receiver.outgoing(0.01)
        sizes.add(tuple(seen))
    assert len(sizes) == 1, "a simulation is to be reproducible"


def test_a_first_flight_that_goes_by_a_late_signal_says_nothing_of_the_paths_round_trip() -> None:
    client, server = QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID), QuicEngine(Side.RESPONDER, BOB, ATTEMPT_ID)
    for data in client.connect(0.0, by_signal=True):
        server.receive(data, 0.6)
    assert client.begin(server.outgoing(0.6), 0.62) == [], "it goes with what is written first"
    assert client.established
    client.write(b"x")
    [last] = client.outgoing(0.62)
    server.receive(last, 0.64)
    assert server.received == b"x"
    assert client.due_s
    assert client.due_s < 0.9, "or what is lost would be missed for long"


def test_a_closed_end_leaves_next_to_nothing_to_the_garbage_collector() -> None:
    client, server = engines()
    exchange(client, server, client.connect(0.0))
    gc.collect()
    gc.disable()
    try:
        client.close(20.0)
        server.close(20.0)
        del client, server
        assert gc.collect() < 50, "a connection of aioquic has some hundred parts that hold each other"
    finally:
        gc.enable()
