"""The guard: an attempt stays within its targets and its budget, and what it uses is counted."""

import asyncio
import weakref
from collections.abc import Callable

import pytest

from fake_network import FakeNetwork, FakeStream, Internet
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Reason, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.targets import USUAL_ALLOWANCE, Allowance, Budget
from warpfleet.net.interfaces import ConnectRefused
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.guard import GuardedNetwork, SharedBudget

PEER = Endpoint("203.0.113.2", 2000)
ALIAS = "127.1.2.3"


def unlimited(_ip: str) -> Budget:
    return Budget(Allowance(packets_per_s=1e6, packets_burst=10_000))


def guard(
    *routes: RouteType, budget: SharedBudget | None = None, towards: Callable[[str], Budget] = unlimited
) -> tuple[GuardedNetwork, FakeNetwork]:
    network = FakeNetwork(Internet(), "203.0.113.1")
    budget = budget or SharedBudget(USUAL_ALLOWANCE)
    return GuardedNetwork(network, routes or (RouteType.EXT,), ALIAS, budget, towards), network


@virtual_time
async def test_a_relay_lets_in_only_whom_it_may_send_to() -> None:
    guarded, network = guard()
    relay = await guarded.allocate_relay(4, timeout_s=1)
    for ip in (PEER.ip, "10.0.0.1", "127.0.0.1"):
        relay.permit(ip)
    assert network.internet.udp[0].permitted == [PEER.ip]


@virtual_time
@pytest.mark.parametrize("ip", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"])
async def test_forbidden_targets_get_nothing_by_any_way(ip: str) -> None:
    guarded, network = guard()
    socket = await guarded.open_udp(4)
    relay = await guarded.allocate_relay(4, timeout_s=1)
    for send in (socket.send_to, relay.send_to):
        with pytest.raises(AttemptFailed) as failed:
            send(b"x", Endpoint(ip, 80))
        assert failed.value.reason is Reason.TARGET_FORBIDDEN
    with pytest.raises(AttemptFailed):
        await guarded.connect_tcp(Endpoint(ip, 80), timeout_s=1)
    assert network.dialled == []
    assert guarded.packets_sent == 0


@virtual_time
async def test_several_routes_reach_what_any_of_them_does() -> None:
    guarded, _ = guard(RouteType.EXT, RouteType.LOOPBACK)
    socket = await guarded.open_udp(4)
    socket.send_to(b"x", Endpoint(ALIAS, 80))
    socket.send_to(b"x", PEER)
    with pytest.raises(AttemptFailed):
        socket.send_to(b"x", Endpoint("10.0.0.1", 80))


@virtual_time
@pytest.mark.parametrize(
    ("route", "ip"),
    [(RouteType.LOOPBACK, "127.0.0.1"), (RouteType.LOOPBACK, "127.1.2.4"), (RouteType.NIC, "192.168.1.1")],
)
async def test_what_a_peer_claims_does_not_lead_to_a_service_of_ours(route: RouteType, ip: str) -> None:
    guarded, network = guard(route)
    socket = await guarded.open_udp(4)
    with pytest.raises(AttemptFailed):
        socket.send_to(b"x", Endpoint(ip, 6379))
    with pytest.raises(AttemptFailed):
        await guarded.connect_tcp(Endpoint(ip, 6379), timeout_s=1)
    assert network.dialled == []


@virtual_time
async def test_nothing_is_heard_from_where_nothing_may_be_sent() -> None:
    guarded, _ = guard()
    socket = await guarded.open_udp(4)
    inner = guarded.release(socket)
    inner.arrive(b"private", Endpoint("192.168.1.1", 1))  # type: ignore[attr-defined]
    inner.arrive(b"public", PEER)  # type: ignore[attr-defined]
    assert await socket.receive() == (b"public", PEER)


def send_until_refused(send: Callable[[bytes, Endpoint], None], *targets: Endpoint) -> int:
    """How many packets went out before one was refused; 10,000 at most."""
    for sent in range(10_000):
        try:
            send(b"x", targets[sent % len(targets)])
        except AttemptFailed as failed:
            return sent if failed.reason is Reason.BUDGET_SPENT else -1
    return 10_000


@virtual_time
async def test_the_budget_is_one_for_all_attempts_with_a_peer_and_fills_up_again() -> None:
    budget = SharedBudget(USUAL_ALLOWANCE)
    (guarded, _), (other, _) = guard(budget=budget), guard(budget=budget)
    one, two, third = await guarded.open_udp(4), await guarded.open_udp(4), await other.open_udp(4)
    assert send_until_refused(one.send_to, PEER, PEER._replace(port=1), PEER._replace(ip="203.0.113.3")) == 400
    assert send_until_refused(two.send_to, PEER) == 0
    assert send_until_refused(third.send_to, PEER) == 0
    with pytest.raises(AttemptFailed):
        await other.connect_tcp(PEER, timeout_s=1)
    await asyncio.sleep(1)
    assert send_until_refused(third.send_to, PEER) == 200


@virtual_time
async def test_peers_that_name_one_victim_make_us_send_it_no_more_than_a_few_would_booked_or_not() -> None:
    victim, other = Budget(USUAL_ALLOWANCE.of_a_target()), Budget(USUAL_ALLOWANCE.of_a_target())
    sent = 0
    for _ in range(40):
        guarded, _ = guard(towards=lambda ip: victim if ip == PEER.ip else other)
        await guarded.book()
        socket = await guarded.open_udp(4)
        sent += send_until_refused(socket.send_to, PEER, PEER._replace(port=1))
    assert sent == 16 * 400
    with pytest.raises(AttemptFailed, match=r"too many packets for 203\.0\.113\.2"):
        await guarded.connect_tcp(PEER, timeout_s=1)
    socket.send_to(b"x", PEER._replace(ip="203.0.113.9"))


@virtual_time
async def test_who_comes_first_books_first() -> None:
    budget = SharedBudget(Allowance(packets_per_s=100, packets_burst=512, packets_booked=512))
    booked: list[int] = []

    async def book(number: int) -> None:
        await guard(budget=budget)[0].book()
        booked.append(number)

    await asyncio.gather(*(book(number) for number in range(20)))
    assert booked == list(range(20))


@virtual_time
async def test_what_is_given_back_is_booked_at_once() -> None:
    budget = SharedBudget(Allowance(packets_per_s=1, packets_burst=8, packets_booked=8))
    first, second = guard(budget=budget)[0], guard(budget=budget)[0]
    await first.book()
    began_s, booking = now_s(), asyncio.create_task(second.book())
    await asyncio.sleep(0.1)
    first.give_back()
    await booking
    assert now_s() - began_s == pytest.approx(0.1)


@virtual_time
async def test_where_the_target_refuses_nothing_of_the_peer_is_spent() -> None:
    budget = SharedBudget(Allowance(packets_per_s=1, packets_burst=8, packets_booked=4))
    refusing = Budget(Allowance(packets_per_s=1, packets_burst=1))
    guarded, _ = guard(budget=budget, towards=lambda _ip: refusing)
    socket = await guarded.open_udp(4)
    assert [send_until_refused(socket.send_to, PEER) for _ in range(20)] == [1, *[0] * 19]
    guarded.give_back()
    assert sum(budget.spend(asyncio.get_running_loop().time()) for _ in range(20)) == 7


@virtual_time
async def test_of_a_crowd_each_waits_for_what_it_will_send_rather_than_fail() -> None:
    budget = SharedBudget(USUAL_ALLOWANCE)
    crowd = [guard(budget=budget)[0] for _ in range(100)]
    began_s = asyncio.get_running_loop().time()

    async def attempt(guarded: GuardedNetwork) -> None:
        await guarded.book()
        socket = await guarded.open_udp(4)
        for _ in range(6):
            await asyncio.sleep(0.1)
            socket.send_to(b"x", PEER)
        guarded.give_back()

    await asyncio.gather(*(attempt(guarded) for guarded in crowd))
    took_s = asyncio.get_running_loop().time() - began_s
    assert (100 * 6 - 400) / 200 <= took_s < 3


@virtual_time
async def test_a_plugin_may_be_allowed_other_amounts() -> None:
    guarded, _ = guard(budget=SharedBudget(Allowance(packets_per_s=50, packets_burst=3)))
    socket = await guarded.open_udp(4)
    assert send_until_refused(socket.send_to, PEER) == 3
    await asyncio.sleep(0.05)
    assert send_until_refused(socket.send_to, PEER) == 2


@virtual_time
async def test_too_many_target_addresses_are_a_scan() -> None:
    guarded, _ = guard()
    socket = await guarded.open_udp(4)
    assert send_until_refused(socket.send_to, *(Endpoint(f"203.0.113.{n}", 1) for n in range(1, 255))) == 8


@virtual_time
async def test_sockets_and_packets_are_counted_failed_connects_included() -> None:
    guarded, _ = guard()
    socket, relay = await guarded.open_udp(4), await guarded.allocate_relay(4, timeout_s=1)
    await guarded.listen_tcp(Endpoint("0.0.0.0", 0))
    with pytest.raises(ConnectRefused):
        await guarded.connect_tcp(PEER, timeout_s=1)
    socket.send_to(b"x", PEER)
    relay.send_to(b"x", PEER)
    relay.send_to(b"x", PEER)
    assert (guarded.sockets, guarded.packets_sent) == (4, 4), "three datagrams and a SYN"


@virtual_time
async def test_streams_are_counted_whoever_opened_them_and_after_their_end() -> None:
    guarded, network = guard()
    others = FakeNetwork(network.internet, PEER.ip)
    listener = await guarded.listen_tcp(Endpoint("0.0.0.0", 443))
    await others.listen_tcp(PEER)
    outbound = await guarded.connect_tcp(PEER, timeout_s=1)
    await others.connect_tcp(listener.local, timeout_s=1)
    for stream in (outbound, await listener.accept()):
        await stream.write(b"x")
        stream.close()
    assert guarded.packets_sent == 3, "a SYN, and what was written"


@virtual_time
async def test_a_count_that_the_kernel_does_not_tell_is_no_number() -> None:
    guarded, network = guard()
    near, _ = network.internet.stream_pair(PEER, PEER)
    near.packets_sent = None
    guarded.count(near)
    assert guarded.packets_sent is None


@virtual_time
async def test_nothing_is_held_once_the_count_is_settled() -> None:
    guarded, _ = guard()
    stream = FakeStream(Internet(), PEER, PEER)
    guarded.count(stream)
    held = weakref.ref(stream)
    del stream
    assert held()
    guarded.settle()
    assert held() is None


@virtual_time
async def test_a_released_socket_is_free_of_the_budget_and_still_counted() -> None:
    guarded, _ = guard()
    socket = await guarded.open_udp(4)
    free = guarded.release(socket)
    assert send_until_refused(free.send_to, PEER) == 10_000
    assert guarded.packets_sent == 10_000
    assert guarded.release(free) is free


@virtual_time
async def test_a_stun_server_is_no_target_of_the_attempt() -> None:
    guarded, _ = guard(RouteType.LOOPBACK)
    socket = await guarded.open_udp(4)
    assert await guarded.external_endpoint(socket, timeout_s=1) == socket.local


@virtual_time
async def test_shared_ports_are_guarded_and_counted_as_others_are() -> None:
    guarded, network = guard()
    listener = await guarded.listen_tcp(Endpoint("0.0.0.0", 50_000), shared=True)
    assert await guarded.external_tcp_endpoint(4, 50_000, timeout_s=1) == Endpoint("203.0.113.1", 50_000)
    assert (guarded.sockets, guarded.packets_sent) == (2, 1)
    with pytest.raises(AttemptFailed):
        await guarded.connect_tcp(Endpoint("10.0.0.1", 80), timeout_s=1, local_port=50_000, hop_limit=2)
    with pytest.raises(ConnectRefused):
        await guarded.connect_tcp(PEER, timeout_s=1, local_port=50_000)
    assert (network.dialled, guarded.sockets, guarded.packets_sent) == ([PEER], 3, 2)
    listener.close()
