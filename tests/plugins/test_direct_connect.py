"""Direct connect: the node's listeners, and the door that only trusted peers come through."""

import asyncio

import pytest

from fake_network import DELAY_S, FakeStream, Internet
from fake_node import ALICE, BOB, MALLORY, FakeNode, contexts, handshakes, node
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Combo, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import MissingError
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost, Unreachable
from warpfleet.plugins.direct_connect import DirectConnect

DOOR = Endpoint("203.0.113.2", 443)
FIRST_FRAME_S = 3.0


async def bob_at_home(internet: Internet) -> FakeNode:
    bob = node(BOB, internet, DOOR.ip)
    await DirectConnect.setup(bob)
    return bob


async def knock(internet: Internet, *says: bytes) -> FakeStream:
    caller = node(MALLORY, internet, "203.0.113.66")
    stream = await caller.network.connect_tcp(DOOR, timeout_s=5)
    for data in says:
        await stream.write(data)
    return stream


@virtual_time
async def test_it_listens_on_every_port_and_on_a_loopback_address_of_its_own() -> None:
    internet = Internet()
    bob = node(BOB, internet, DOOR.ip, listen_ports=(443, 0))
    bob.network.listen_error = lambda endpoint: Unreachable("no IPv6") if endpoint.af == 6 else None
    assert await DirectConnect.setup(bob)
    *outer, alias = bob.advertised
    assert [e.ip for e in outer] == [DOOR.ip, DOOR.ip]
    assert outer[0].port == 443
    assert alias.ip.startswith("127.")
    assert alias.ip != "127.0.0.1"
    await bob.close()
    assert all(listener.closed for listener in internet.listeners.values())


@virtual_time
async def test_every_listener_that_strangers_could_reach_is_mapped_as_long_as_a_gateway_does_that() -> None:
    bob = node(BOB, Internet(), DOOR.ip, listen_ports=(443, 0))
    await DirectConnect.setup(bob)
    *outer, _alias = bob.advertised
    assert [(lease.port, lease.af) for lease in bob.network.leases] == [(e.port, e.af) for e in outer]
    assert bob.mapped == {}
    lease, external = bob.network.leases[0], Endpoint("198.51.100.7", 5555)
    for told in (external, None):
        lease.news.put_nowait(told)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bob.mapped == {outer[0]: told}
    waiting = [asyncio.ensure_future(news()) for news in bob.expected]
    assert len(waiting) == len(outer)
    for lease in bob.network.leases:
        lease.answered.set()
    await asyncio.gather(*waiting)
    await bob.close()


@virtual_time
async def test_a_port_that_is_taken_ends_the_start_with_one_clear_line() -> None:
    bob = node(BOB, Internet(), DOOR.ip)
    bob.network.listen_error = lambda endpoint: OSError(98, "Address already in use") if endpoint.port == 443 else None
    with pytest.raises(MissingError, match="node bob: cannot listen on TCP port 443: Address already in use"):
        await DirectConnect.setup(bob)


@virtual_time
async def test_a_trusted_peer_is_let_in_with_its_first_frame() -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    hello = handshakes()[0].opener()
    await knock(internet, hello[:50], hello[50:])
    await asyncio.sleep(1)
    assert [inbound.first_frame for inbound in bob.arrived] == [hello]
    await bob.close()


@virtual_time
async def test_a_frame_of_long_ago_opens_nothing() -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    bob.clock_ahead_us = 3600 * 1_000_000
    await knock(internet, handshakes()[0].opener())
    await asyncio.sleep(1)
    assert bob.arrived == []
    await bob.close()


STRANGERS = {
    "a stranger": handshakes(initiator=MALLORY)[0].opener(),
    "a frame for somebody else": handshakes(responder=MALLORY)[0].opener(),
    "garbage": bytes(range(256))[:FRAME_BYTES].ljust(FRAME_BYTES, b"x"),
    "a tampered frame": handshakes()[0].opener()[:-1] + b"\0",
}


@virtual_time
@pytest.mark.parametrize("who", STRANGERS)
async def test_nobody_else_is_let_in(who: str) -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    stream = await knock(internet, STRANGERS[who])
    with pytest.raises(ConnectionLost):
        await stream.read(1)
    assert now_s() < FIRST_FRAME_S
    assert bob.arrived == []
    await bob.close()


@virtual_time
@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n"])
async def test_silence_is_shown_the_door(says: bytes) -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    stream = await knock(internet, says or b"W")
    with pytest.raises(ConnectionLost):
        await stream.read(1)
    assert now_s() == pytest.approx(FIRST_FRAME_S + 3 * DELAY_S, abs=0.1)
    assert bob.arrived == []
    await bob.close()


@virtual_time
async def test_a_crowd_of_silent_strangers_is_bounded_and_passes() -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    await asyncio.gather(*(knock(internet) for _ in range(300)))
    at_bob = [s for s in internet.streams if s.local == DOOR]
    await asyncio.sleep(0.1)
    assert sum(not s.closed for s in at_bob) == 256
    await asyncio.sleep(FIRST_FRAME_S)
    assert all(s.closed for s in at_bob)
    await knock(internet, handshakes()[0].opener())
    await asyncio.sleep(1)
    assert len(bob.arrived) == 1
    await bob.close()


@virtual_time
async def test_the_door_outlives_a_time_without_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    await asyncio.sleep(0)
    listener = internet.listeners[DOOR]
    accept, failures = listener.accept, [OSError(24, "Too many open files")] * 3

    async def exhausted() -> FakeStream:
        if failures:
            raise failures.pop()
        return await accept()

    listener.accept = exhausted  # type: ignore[method-assign]
    for _ in range(2):
        await knock(internet, handshakes()[0].opener())
    await asyncio.sleep(5)
    assert len(bob.arrived) == 2
    assert "node bob cannot accept a stream" in caplog.text
    await bob.close()


@virtual_time
async def test_closing_the_node_closes_who_waits_at_the_door() -> None:
    internet = Internet()
    bob = await bob_at_home(internet)
    stream = await knock(internet)
    await asyncio.sleep(0.1)
    await bob.close()
    assert all(s.closed for s in internet.streams if s is not stream)
    assert len(asyncio.all_tasks()) == 1


@virtual_time
@pytest.mark.parametrize("route", [RouteType.EXT, RouteType.NIC])
async def test_the_initiator_dials_and_both_get_the_pipe(route: RouteType) -> None:
    internet = Internet()
    alice, bob = node(ALICE, internet, "203.0.113.1"), await bob_at_home(internet)
    ahead = asyncio.Semaphore(1)
    a, b = contexts(alice, bob, Combo("direct_connect", 4, route))
    async with asyncio.timeout(5):
        pipe, other = await asyncio.gather(DirectConnect(a, ahead).run(), DirectConnect(b, ahead).run())
    assert (pipe.peer, other.peer, pipe.path.remote) == ("bob", "alice", DOOR)
    await asyncio.gather(pipe.close(), other.close(), bob.close())
