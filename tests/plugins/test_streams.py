"""Dialling several addresses at once and taking in what the peer dials: one winner, no leaks."""

import asyncio

import pytest

from fake_network import DELAY_S, Internet
from fake_node import ALICE, BOB, MALLORY, FakeNode, contexts, handshakes, node, view
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Combo, Reason, RouteType, Side
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.peer import PeerView
from warpfleet.net.handshake import FRAME_BYTES, ProofFailed
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused
from warpfleet.net.stream_proof import prove_stream
from warpfleet.net.tls import Tunnel
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.streams import TARGETS_MAX, accept, dial, targets

COMBO = Combo("direct_connect", 4, RouteType.EXT)
PORTS = (443, 444, 445)
A_IP, B_IP = "203.0.113.1", "203.0.113.2"


async def settle() -> None:
    """Let the last bytes under way arrive."""
    await asyncio.sleep(1)


def pair(internet: Internet) -> tuple[FakeNode, FakeNode]:
    return node(ALICE, internet, A_IP), node(BOB, internet, B_IP)


async def open_door(bob: FakeNode, ports: tuple[int, ...] = PORTS) -> list[Endpoint]:
    """Listeners that read the first frame and hand the stream to Bob's attempt."""

    async def serve(port: int) -> None:
        listener = await bob.network.listen_tcp(Endpoint("0.0.0.0", port))
        while True:
            stream = await listener.accept()
            try:
                bob.inbound(InboundStream(stream, await stream.read_exactly(FRAME_BYTES)))
            except ConnectionLost:
                stream.close()

    for port in ports:
        bob.spawn(serve(port))
    await asyncio.sleep(0)
    return [Endpoint(bob.network.ip, port) for port in ports]


@virtual_time
async def test_of_several_streams_one_becomes_the_pipe_and_the_others_are_closed() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    a, b = contexts(alice, bob, COMBO)
    endpoints = await open_door(bob)
    async with asyncio.timeout(5):
        pipe, other = await asyncio.gather(dial(a, endpoints), accept(b))
    assert now_s() == pytest.approx(5 * DELAY_S), "SYN, SYN-ACK, HELLO, PROOF, TAKE"
    assert len(bob.arrived) == 1, "one is proved, and costs both ends what that takes"
    await settle()
    assert len(internet.open_sockets()) == 2
    assert pipe.path.remote == other.path.local
    await pipe.send(b"hello")
    assert await other.recv() == b"hello"
    await bob.close()


@virtual_time
async def test_a_host_that_says_nothing_does_not_keep_the_others_waiting_for_long() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    a, b = contexts(alice, bob, COMBO)
    silent = await bob.network.listen_tcp(Endpoint("0.0.0.0", 80))
    endpoints = [silent.local, *await open_door(bob, PORTS[:1])]
    async with asyncio.timeout(5):
        pipe, _ = await asyncio.gather(dial(a, [Endpoint(B_IP, e.port) for e in endpoints]), accept(b))
    assert pipe.path.remote.port == PORTS[0]
    assert now_s() == pytest.approx((2 + 6 + 3) * DELAY_S), "SYN and SYN-ACK, three round trips; HELLO, PROOF, TAKE"
    silent.close()
    await pipe.close()
    await bob.close()


@virtual_time
async def test_a_stream_that_takes_long_gets_company(monkeypatch: pytest.MonkeyPatch) -> None:
    internet = Internet()
    alice, bob = pair(internet)
    a, b = contexts(alice, bob, COMBO)
    endpoints = await open_door(bob, PORTS[:1])
    syn, lost = internet.syn, []

    def lose_the_first(source: Endpoint, remote: Endpoint, hop_limit: int | None) -> None:
        if lost:
            syn(source, remote, hop_limit)
        lost.append(source)

    monkeypatch.setattr(internet, "syn", lose_the_first)
    async with asyncio.timeout(5):
        pipe, other = await asyncio.gather(dial(a, endpoints), accept(b))
    assert now_s() == pytest.approx(0.7 + 5 * DELAY_S)
    assert len(lost) == 2
    await settle()
    assert len(internet.open_sockets()) == 2
    await asyncio.gather(pipe.close(), other.close())
    await bob.close()


@virtual_time
async def test_only_one_stream_at_a_time_asks_to_be_taken_and_the_next_may_when_it_dies() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    claims: list[float] = []
    killed: list[object] = []

    async def claim() -> None:
        claims.append(now_s())
        if len(claims) == 1:
            first = internet.streams[0]
            killed.append(first)
            first.close()

    a, b = contexts(alice, bob, COMBO, claim=claim)
    endpoints = await open_door(bob, PORTS[:2])
    async with asyncio.timeout(5):
        pipe, _ = await asyncio.gather(dial(a, endpoints), accept(b))
    assert len(claims) == 2
    assert pipe.path.remote == endpoints[1]
    await bob.close()


@virtual_time
async def test_a_wrong_host_at_the_address_never_wins() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    mallory = node(MALLORY, internet, "203.0.113.9")
    a, b = contexts(alice, bob, COMBO)
    listener = await mallory.network.listen_tcp(Endpoint("0.0.0.0", 443))

    async def pretend() -> None:
        stream = await listener.accept()
        _, forged = handshakes(responder=MALLORY)
        await prove_stream(stream, forged, a.claim, Tunnel(Side.RESPONDER, MALLORY))

    mallory.spawn(pretend())
    with pytest.raises(ProofFailed):
        await dial(a, [listener.local])
    (right,) = await open_door(bob, (443,))
    mallory.spawn(pretend())
    pipe, _ = await asyncio.gather(dial(a, [listener.local, right]), accept(b))
    assert pipe.path.remote == right
    await asyncio.gather(bob.close(), mallory.close())


@virtual_time
async def test_where_none_wins_the_most_patient_failure_is_told() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    a, _ = contexts(alice, bob, COMBO)
    listener = await bob.network.listen_tcp(Endpoint("0.0.0.0", 443))

    async def hang_up_later() -> None:
        streams = [await listener.accept(), await listener.accept()]  # the one that takes long, and its company
        await asyncio.sleep(2)
        for stream in streams:
            stream.close()

    bob.spawn(hang_up_later())
    with pytest.raises(ConnectionLost):
        await dial(a, [listener.local, Endpoint("203.0.113.2", 1)])
    with pytest.raises(ConnectRefused):
        await dial(a, [Endpoint("203.0.113.2", 1)])
    with pytest.raises(AttemptFailed) as failed:
        await dial(a, [])
    assert failed.value.reason is Reason.NO_ADDRESS
    await bob.close()
    await settle()
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("after_steps", range(1, 30))
async def test_whenever_it_is_cancelled_nothing_stays_open(after_steps: int) -> None:
    internet = Internet()
    alice, bob = pair(internet)
    a, b = contexts(alice, bob, COMBO)
    endpoints = await open_door(bob)
    tasks = [asyncio.create_task(dial(a, endpoints)), asyncio.create_task(accept(b))]
    for _ in range(after_steps):
        await asyncio.sleep(DELAY_S / 4)
    for task in tasks:
        task.cancel()
    for reached in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(reached, BaseException):
            await reached.close()
    b.inbox.close()
    await asyncio.sleep(1)
    await bob.close()
    await settle()
    assert internet.open_sockets() == []


@virtual_time
async def test_streams_that_come_after_the_end_are_closed() -> None:
    internet = Internet()
    _, b = contexts(*pair(internet), COMBO)
    near, far = internet.stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2))
    b.inbox.put_stream(InboundStream(near, b""))
    b.inbox.close()
    b.inbox.put_stream(InboundStream(far, b""))
    assert internet.open_sockets() == []


@virtual_time
async def test_accept_ends_as_the_last_stream_did_and_takes_a_later_one_before() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    a, b = contexts(alice, bob, COMBO)
    _, forged = handshakes(responder=MALLORY)
    near, _far = internet.stream_pair(bob.view.listeners[0], Endpoint("203.0.113.9", 9))
    b.inbox.put_stream(InboundStream(near, forged.opener()))
    with pytest.raises(ProofFailed):
        await accept(b)
    assert near.closed
    a.inbox.close()


@virtual_time
async def test_the_end_of_a_stream_that_lost_may_overtake_the_first_frame_of_the_one_that_won() -> None:
    internet = Internet()
    a, b = contexts(*pair(internet), COMBO)
    losing, winning = (internet.stream_pair(Endpoint(B_IP, port), Endpoint(A_IP, port)) for port in PORTS[:2])
    accepting = asyncio.create_task(accept(b))
    b.inbox.put_stream(InboundStream(losing[0], a.handshake().opener()))
    losing[1].close()
    await asyncio.sleep(2 * DELAY_S)
    assert losing[0].closed
    proving = asyncio.create_task(a.prove_stream(winning[1]))
    b.inbox.put_stream(InboundStream(winning[0], await winning[0].read_exactly(FRAME_BYTES)))
    pipe = await proving
    await pipe.send(b"hello")
    assert await (await accepting).recv() == b"hello"


def many(ports: int) -> PeerView:
    return view("bob", "203.0.113.2", ports=tuple(range(1000, 1000 + ports)))


def test_at_most_so_many_targets_the_well_known_ports_first() -> None:
    found = targets(view("alice", "203.0.113.1"), many(20), 4, RouteType.EXT)
    assert found == [Endpoint("203.0.113.2", port) for port in range(1000, 1000 + TARGETS_MAX)]


def test_mapped_ports_are_dialled_first_and_over_the_internet_alone() -> None:
    mine = view("alice", "203.0.113.1")
    mapped = [Endpoint("203.0.113.2", port) for port in (5555, 1001)]
    theirs = many(3).with_mapped(mapped)
    unmapped = [Endpoint("203.0.113.2", port) for port in (1000, 1002)]
    assert targets(mine, theirs, 4, RouteType.EXT) == mapped + unmapped
    assert targets(mine, many(20).with_mapped(mapped), 4, RouteType.EXT)[:2] == mapped
    assert Endpoint("203.0.113.2", 5555) not in targets(mine, theirs, 4, RouteType.NIC)
    assert targets(mine, theirs, 6, RouteType.EXT) == []


def test_the_targets_of_each_route() -> None:
    mine = PeerView(name="a", machine="m", interfaces=(Interface("e", "192.168.1.2", 24),))
    listeners = (Endpoint("0.0.0.0", 443), Endpoint("127.1.2.3", 5000), Endpoint("::", 443))
    interfaces = (Interface("e", "192.168.1.3", 24), Interface("d", "172.17.0.1", 16))
    theirs = PeerView(name="b", machine="m", interfaces=interfaces, listeners=listeners, external={4: "198.51.100.1"})
    assert targets(mine, theirs, 4, RouteType.NIC) == [Endpoint("192.168.1.3", 443)]
    assert targets(mine, theirs, 4, RouteType.EXT) == [Endpoint("198.51.100.1", 443)]
    assert targets(mine, theirs, 4, RouteType.LOOPBACK) == [Endpoint("127.1.2.3", 5000)]
    assert targets(mine, theirs, 6, RouteType.EXT) == []


@virtual_time
async def test_no_more_than_the_most_targets_are_dialled() -> None:
    internet = Internet()
    alice, bob = pair(internet)
    context: AttemptContext = contexts(alice, bob, COMBO)[0]
    with pytest.raises(ConnectRefused):
        await dial(context, [Endpoint("203.0.113.2", port) for port in range(1, 30)])
    assert len(alice.network.dialled) == TARGETS_MAX
