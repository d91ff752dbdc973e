"""Random probes between two nodes in memory: many mappings meet many probes, within bounds."""

import asyncio
from dataclasses import replace

import pytest
from meeting import Meeting, carries_then_closes, meets, reason_of
from probing_pair import bridged

from fake_nat import EXTERNAL, natted, sequence
from fake_network import STUN_SERVER, FakeUdp, Internet
from fake_node import ALICE, BOB, HEAD
from virtual_time import virtual_time
from warpfleet.core.combo import Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.port_range import PortRange
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.random_probe import RandomProbe
from warpfleet.plugins.random_probe.messages import Answer, Offer
from warpfleet.plugins.random_probe.plan import MAPPINGS_MAX, PROBES_MAX
from warpfleet.plugins.room import Room

BLOCK = PortRange(40_000, 41_023)


def packets(internet: Internet) -> int:
    """All that was sent so far."""
    return sum(socket.packets_sent for socket in internet.udp)


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_many_mappings_and_many_probes_meet(random_initiator: bool, seed: int) -> None:
    internet = Internet()
    await meets(RandomProbe, internet, *bridged(internet, seed, random_initiator=random_initiator))
    [probing] = [socket for socket in internet.udp if socket.source_towards(STUN_SERVER).port == 50_000]
    assert 1 < len(internet.udp) - 1 <= MAPPINGS_MAX
    assert probing.packets_sent < PROBES_MAX + 20


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
@pytest.mark.parametrize("seed", range(10))
async def test_in_a_block_that_is_known_they_meet_soon(random_initiator: bool, seed: int) -> None:
    internet = Internet()
    ends = bridged(internet, seed, random_initiator=random_initiator, block=BLOCK, known=BLOCK)
    await meets(RandomProbe, internet, *ends)
    assert packets(internet) < 250


@virtual_time
@pytest.mark.parametrize("seed", range(3))
async def test_in_a_block_that_is_no_more_they_meet_all_the_same(seed: int) -> None:
    internet = Internet()
    await meets(RandomProbe, internet, *bridged(internet, seed, random_initiator=True, known=BLOCK))


@virtual_time
async def test_a_stranger_that_answers_a_probe_is_no_hit() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=False)

    def echoed_with_another_signature(data: bytes, source: Endpoint, target: Endpoint) -> bool:
        if source.ip == EXTERNAL["alice"] and len(data) == FRAME_BYTES:
            internet.carry(data[:-1] + bytes([data[-1] ^ 1]), target, source)
        return False

    internet.loses = echoed_with_another_signature
    mine, theirs = await Meeting(RandomProbe, alice, bob).pipes()
    await carries_then_closes(mine, theirs)


@virtual_time
async def test_probes_that_hit_nothing_are_bounded_and_try_no_port_twice() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=False)
    meeting = Meeting(RandomProbe, alice, bob)
    meeting.a.inbox.put_message(Answer(**HEAD, address=EXTERNAL["bob"], port=None))
    meeting.a.post = lambda _message: None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(15):
            await meeting.run(meeting.a)
    [socket] = internet.udp
    ports = [target.port for _, target in socket.sent]
    assert len(ports) == len(set(ports)) == PROBES_MAX
    assert socket.closed


@virtual_time
async def test_mappings_that_nobody_probes_are_bounded() -> None:
    internet = Internet()
    meeting = Meeting(RandomProbe, *bridged(internet, 1, random_initiator=True))
    meeting.a.inbox.put_message(Answer(**HEAD, address=EXTERNAL["bob"], port=50_000))
    meeting.a.post = lambda _message: None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(15):
            await meeting.run(meeting.a)
    assert len(internet.udp) == packets(internet) == MAPPINGS_MAX
    assert internet.open_sockets() == []


@virtual_time
async def test_attempts_that_share_a_room_wait_for_one_another() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=True)
    room = Room(MAPPINGS_MAX + 1)
    meetings = [Meeting(RandomProbe, alice, bob) for _ in range(3)]
    for meeting in meetings:
        meeting.a.room = room
        meeting.a.post = lambda _message: None
        meeting.a.inbox.put_message(Answer(**HEAD, address=EXTERNAL["bob"], port=50_000))
    attempts = [asyncio.create_task(meeting.run(meeting.a)) for meeting in meetings]
    for number, attempt in enumerate(attempts):
        await asyncio.sleep(5)
        assert len(internet.open_sockets()) == MAPPINGS_MAX
        assert len(internet.udp) == (number + 1) * MAPPINGS_MAX
        attempt.cancel()
        await asyncio.wait([attempt])
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_an_attempt_that_is_cancelled_closes_every_socket(random_initiator: bool) -> None:
    internet = Internet(loses=lambda _data, _source, _target: True)
    meeting = Meeting(RandomProbe, *bridged(internet, 1, random_initiator=random_initiator))
    initiating = asyncio.create_task(meeting.run(meeting.a))
    await asyncio.sleep(5)
    assert meeting.responding
    assert len(internet.open_sockets()) == 1 + MAPPINGS_MAX
    for running in (initiating, meeting.responding):
        running.cancel()
    await asyncio.gather(initiating, meeting.responding, return_exceptions=True)
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("port", [None, 53])
@pytest.mark.parametrize("target", ["10.0.0.1", "127.0.0.1", "169.254.169.254"])
async def test_a_peer_cannot_make_us_probe_where_the_route_does_not_lead(target: str, port: int | None) -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=port is None)
    meeting = Meeting(RandomProbe, alice, bob)
    meeting.b.opening = Offer(**HEAD, address=target, port=port)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.b)
    assert reason_of(failed) is Reason.TARGET_FORBIDDEN
    assert internet.open_sockets() == []


@virtual_time
@pytest.mark.parametrize("kind", ["symmetric_random", "port_restricted"])
async def test_two_ends_of_one_kind_do_not_probe(kind: str) -> None:
    internet = Internet()
    ends = [natted(identity, internet, kind, sequence(50_000)) for identity in (ALICE, BOB)]
    meeting = Meeting(RandomProbe, *ends)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.a)
    assert reason_of(failed) is Reason.NAT_RULES_OUT
    assert meeting.responding
    with pytest.raises(AttemptFailed):
        await meeting.responding
    assert internet.open_sockets() == []
    assert sum(socket.packets_sent for socket in internet.udp) == 0


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_who_does_not_know_its_external_address_neither_probes_nor_is_probed(random_initiator: bool) -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=random_initiator)
    alice.view = replace(alice.view, external={})
    alice.network.stun = TimeoutError()
    meeting = Meeting(RandomProbe, alice, bob)
    with pytest.raises(AttemptFailed) as failed:
        await meeting.run(meeting.a)
    assert reason_of(failed) is Reason.STUN_FAILED
    assert internet.open_sockets() == []


@virtual_time
async def test_where_sockets_run_out_those_that_were_opened_are_closed() -> None:
    internet = Internet()
    alice, bob = bridged(internet, 1, random_initiator=True)
    open_udp = alice.network.open_udp

    async def only_a_hundred(af: int, port: int = 0) -> FakeUdp:
        if len(internet.udp) == 100:
            raise OSError("too many open files")
        return await open_udp(af, port)

    alice.network.open_udp = only_a_hundred  # type: ignore[method-assign]
    meeting = Meeting(RandomProbe, alice, bob)
    meeting.a.inbox.put_message(Answer(**HEAD, address=EXTERNAL["bob"], port=50_000))
    meeting.a.post = lambda _message: None
    with pytest.raises(OSError, match="too many"):
        await meeting.run(meeting.a)
    assert internet.open_sockets() == []
