"""Relayed addresses at a real TURN server: over UDP and TCP, beside each other, refused, and given back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from coturn_server import CANCELLER, CLOSER, HOME, PLACES, Coturn, free_port

from fake_node import handshakes, leave_at_once
from warpfleet.configs.fleet import TurnServer
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Counted, DatagramSocket, RelayRefused, Unreachable
from warpfleet.net.network import KernelNetwork
from warpfleet.net.proving import prove_datagram
from warpfleet.net.relay import credentials
from warpfleet.net.vantage import Vantage

pytestmark = pytest.mark.lab

DEADLINE_S = 5.0
Open = Callable[..., KernelNetwork]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Makes networks, and afterwards checks that nothing they started is left over."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    networks: list[KernelNetwork] = []

    def make(*servers: TurnServer) -> KernelNetwork:
        networks.append(KernelNetwork(Vantage(address=HOME), turn_servers=servers))
        return networks[-1]

    yield make
    for network in networks:
        await network.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert complaints == []


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A UDP socket at a port that takes packets, and TCP connections as well, and never answers."""
    with socket.create_server((HOME, 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((HOME, tcp.getsockname()[1]))
        yield udp


async def within(work: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return await work


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_datagrams_go_both_ways_through_the_relay(coturn: Coturn, opened: Open, transport: str) -> None:
    network = opened(coturn.server(transport))
    relayed: DatagramSocket = await network.allocate_relay(4, timeout_s=DEADLINE_S)
    peer = await network.open_udp(4)
    for data in (b"first, while the channel is being bound", b"second", b"odd"):
        relayed.send_to(data, peer.local)
    assert [await within(peer.receive()) for _ in range(3)] == [
        (b"first, while the channel is being bound", relayed.local),
        (b"second", relayed.local),
        (b"odd", relayed.local),
    ]
    relayed.send_to(b"through the bound channel", peer.local)
    assert (await within(peer.receive()))[0] == b"through the bound channel"
    peer.send_to(b"back", relayed.local)
    assert await within(relayed.receive()) == (b"back", peer.local)
    assert relayed.packets_sent is not None
    if transport == "udp":
        assert relayed.packets_sent == 2 + 1 + 4, (
            "to allocate without and with the nonce, to bind the channel, the data"
        )
    else:
        assert relayed.packets_sent > 2 + 1 + 4, "the handshake and ACKs, too"
    assert await network.external_endpoint(relayed, timeout_s=DEADLINE_S) == relayed.local
    relayed.close()
    peer.close()


async def test_a_peer_that_is_permitted_is_heard_before_anything_was_sent_to_it(coturn: Coturn, opened: Open) -> None:
    network = opened(coturn.server())
    peer = await network.open_udp(4)
    relayed = await network.allocate_relay(4, timeout_s=DEADLINE_S)
    relayed.permit(peer.local.ip)

    async def knock() -> None:
        while True:  # a permission is there as soon as the server has heard of it
            peer.send_to(b"knock", relayed.local)
            await asyncio.sleep(0.01)

    knocking = asyncio.create_task(knock())
    assert await within(relayed.receive()) == (b"knock", peer.local)
    knocking.cancel()
    relayed.send_to(b"at once", peer.local)
    assert await within(peer.receive()) == (b"at once", relayed.local)
    relayed.close()
    peer.close()


async def test_a_relay_that_closes_while_it_permits_leaves_nothing_behind(coturn: Coturn, opened: Open) -> None:
    network = opened(coturn.server())
    relayed = await network.allocate_relay(4, timeout_s=DEADLINE_S)
    relayed.permit(HOME)
    relayed.close()
    await network.close()
    assert relayed.packets_sent == 2 + 1, "to allocate without and with the nonce, to delete"


async def test_a_peer_that_answers_from_another_port_is_heard(coturn: Coturn, opened: Open) -> None:
    """As one behind an address- and port-dependent mapping does."""
    network = opened(coturn.server())
    relayed = await network.allocate_relay(4, timeout_s=DEADLINE_S)
    expected, actual = await network.open_udp(4), await network.open_udp(4)
    relayed.send_to(b"opens the permission", expected.local)
    await within(expected.receive())
    actual.send_to(b"from elsewhere", relayed.local)
    assert await within(relayed.receive()) == (b"from elsewhere", actual.local)
    for closing in (relayed, expected, actual):
        closing.close()


async def test_both_ends_are_proved_although_the_port_was_guessed_wrong(coturn: Coturn, opened: Open) -> None:
    network = opened(coturn.server())
    relayed, peer = await network.allocate_relay(4, timeout_s=DEADLINE_S), await network.open_udp(4)
    wrong = Endpoint(HOME, free_port())
    initiator, responder = handshakes()
    ends = await within(
        asyncio.gather(
            prove_datagram(relayed, initiator, leave_at_once, [wrong]),
            prove_datagram(peer, responder, leave_at_once, [relayed.local]),
        )
    )
    assert [end.remote for end in ends] == [peer.local, relayed.local]
    relayed.close()
    peer.close()


async def test_two_relayed_addresses_meet(coturn: Coturn, opened: Open) -> None:
    server = coturn.server()
    network = opened(server)
    one, two = [await network.allocate_relay(4, timeout_s=DEADLINE_S) for _ in range(2)]
    one.send_to(b"opens my side", two.local)
    two.send_to(b"hello", one.local)
    assert await within(one.receive()) == (b"hello", two.local)
    assert one.through == Endpoint(server.host, server.port)
    one.close()
    two.close()


async def take_every_place(network: KernelNetwork) -> list[DatagramSocket]:
    """All the allocations that a user may have; the server gives one back about a second after its deletion."""
    held: list[DatagramSocket] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(held) < PLACES:
            try:
                held.append(await network.allocate_relay(4, timeout_s=DEADLINE_S))
            except RelayRefused:
                await asyncio.sleep(0.02)
    return held


async def test_closing_gives_the_allocation_back(coturn: Coturn, opened: Open) -> None:
    network = opened(coturn.server(username=CLOSER))
    for _ in range(2):
        for relayed in await take_every_place(network):
            relayed.close()
            relayed.close()
            with pytest.raises(ConnectionLost):
                await relayed.receive()


async def test_closing_while_a_channel_is_being_bound(coturn: Coturn, opened: Open) -> None:
    network = opened(coturn.server())
    relayed = await network.allocate_relay(4, timeout_s=DEADLINE_S)
    relayed.send_to(b"never sent", Endpoint(HOME, 9))
    pending = asyncio.create_task(relayed.receive())
    await asyncio.sleep(0)
    relayed.close()
    with pytest.raises(ConnectionLost):
        await within(pending)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_wrong_password_is_refused_with_its_code(coturn: Coturn, opened: Open, transport: str) -> None:
    network = opened(coturn.server(transport, password="wrong-horse"))
    with pytest.raises(RelayRefused, match="401") as refusal:
        await network.allocate_relay(4, timeout_s=DEADLINE_S)
    assert "wrong-horse" not in str(refusal.value)


async def test_a_family_that_the_server_does_not_relay_is_refused(coturn: Coturn, opened: Open) -> None:
    with pytest.raises(RelayRefused, match="440"):
        await opened(coturn.server()).allocate_relay(6, timeout_s=DEADLINE_S)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_no_server_there_is_refused_at_once(coturn: Coturn, opened: Open, transport: str) -> None:
    with socket.create_server((HOME, 0)) as once:
        port = once.getsockname()[1]
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(ConnectRefused):
        await opened(coturn.server(transport, port=port)).allocate_relay(4, timeout_s=DEADLINE_S)
    assert asyncio.get_running_loop().time() - began_s < 1


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_silent_server_costs_the_timeout_and_no_more(
    coturn: Coturn, opened: Open, silent: socket.socket, transport: str
) -> None:
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await opened(coturn.server(transport, port=silent.getsockname()[1])).allocate_relay(4, timeout_s=0.2)
    assert asyncio.get_running_loop().time() - began_s < 1


async def test_without_a_server_there_is_no_relay(opened: Open) -> None:
    with pytest.raises(Unreachable):
        await opened().allocate_relay(4, timeout_s=DEADLINE_S)


async def test_silence_over_udp_does_not_hold_tcp_up(coturn: Coturn, opened: Open, silent: socket.socket) -> None:
    network = opened(coturn.server("tcp"), coturn.server("udp", port=silent.getsockname()[1]))
    began_s = asyncio.get_running_loop().time()
    discarded: list[Counted] = []
    relayed = await network.allocate_relay(4, timeout_s=DEADLINE_S, discard=discarded.append)
    assert 0.25 < asyncio.get_running_loop().time() - began_s < 1
    assert [loser.packets_sent for loser in discarded] == [1]
    relayed.close()


async def test_what_was_sent_to_no_avail_is_handed_over(coturn: Coturn, opened: Open) -> None:
    discarded: list[Counted] = []
    network = opened(coturn.server("tcp", password="wrong-horse"))
    with pytest.raises(RelayRefused):
        await network.allocate_relay(4, timeout_s=DEADLINE_S, discard=discarded.append)
    with socket.create_server((HOME, 0)) as once:
        nobody = coturn.server("tcp", port=once.getsockname()[1])
    with pytest.raises(ConnectRefused):
        await opened(nobody).allocate_relay(4, timeout_s=DEADLINE_S, discard=discarded.append)
    refused, unanswered = (loser.packets_sent for loser in discarded)
    assert refused is not None
    assert refused > 3
    assert unanswered == 1


async def test_blocked_udp_is_not_waited_for(coturn: Coturn, opened: Open, silent: socket.socket) -> None:
    network = opened(coturn.server("udp", port=silent.getsockname()[1]), coturn.server("tcp"))
    network.relays.udp_blocked = True
    relayed = await network.allocate_relay(4, timeout_s=DEADLINE_S)
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.recv(1)
    relayed.close()


async def test_a_cancelled_allocation_leaves_none_behind(coturn: Coturn, opened: Open) -> None:
    network = opened(coturn.server(username=CANCELLER))
    for step in range(PLACES):  # from before the first request to after the last answer
        allocating = asyncio.create_task(network.allocate_relay(4, timeout_s=DEADLINE_S))
        await asyncio.wait({allocating}, timeout=step * 0.0003)
        allocating.cancel()
        result = (await asyncio.gather(allocating, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            result.close()
    for relayed in await take_every_place(network):
        relayed.close()


def test_ephemeral_credentials_are_those_of_the_rest_draft() -> None:
    server = TurnServer.model_validate({"url": "turn:192.0.2.1", "secret": "north"})
    username, password = credentials(server, 1_700_000_000.9)
    assert (username, password) == ("1700086400:warpfleet", "Fse/w+WNrDOFScHl4GOC7DJXbJg=")
