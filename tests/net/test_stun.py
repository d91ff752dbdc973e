"""STUN: what is relied on of aioice's codec, the client on a shared socket, and the embedded server."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.endpoint import Endpoint
from warpfleet.net import stun
from warpfleet.net.interfaces import ConnectionLost, Counted
from warpfleet.net.network import KernelNetwork
from warpfleet.net.stunserver import StunServer
from warpfleet.net.vantage import Vantage

HOME = "127.0.0.1"
DEADLINE_S = 5.0
# RFC 5769 section 2.2: a response with the mapped address 192.0.2.1:32853.
RFC_5769_RESPONSE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)


def network(*servers: Endpoint, address: str = HOME) -> KernelNetwork:
    return KernelNetwork(Vantage(address=address), stun_servers=servers)


def test_the_codec_reads_the_rfcs_own_response() -> None:
    message = stun.parse(RFC_5769_RESPONSE)
    assert message is not None
    assert stun.endpoint_in(message, "XOR-MAPPED-ADDRESS") == ("192.0.2.1", 32853)
    assert stun.transaction_id(RFC_5769_RESPONSE) == message.transaction_id == RFC_5769_RESPONSE[8:20]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHANGE-REQUEST", stun.CHANGE_IP | stun.CHANGE_PORT),
        ("OTHER-ADDRESS", ("203.0.113.21", 3479)),
        ("RESPONSE-ORIGIN", ("2001:db8::20", 3478)),
        ("XOR-MAPPED-ADDRESS", ("2001:db8::1", 32853)),
        ("DATA", b"relayed"),
        ("REQUESTED-ADDRESS-FAMILY", 0x02000000),
    ],
)
def test_the_codec_carries_every_attribute_that_is_used(name: str, value: object) -> None:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes={name: value})
    read = stun.parse(bytes(message))
    assert read is not None
    assert read.attributes == {name: value}


def test_a_change_request_is_the_one_of_rfc_5780() -> None:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, attributes={"CHANGE-REQUEST": stun.CHANGE_IP})
    assert bytes(message)[20:] == struct.pack("!HHI", 0x0003, 4, 0x04)


@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: RFC_5769_RESPONSE[:20] + tail))
def test_no_datagram_breaks_the_parser(data: bytes) -> None:
    message = stun.parse(data)
    assert message is None or message.transaction_id == stun.transaction_id(data)


@given(st.integers(20, len(RFC_5769_RESPONSE) - 1), st.binary(min_size=1, max_size=8))
def test_no_damaged_message_breaks_the_parser(at: int, damage: bytes) -> None:
    data = bytearray(RFC_5769_RESPONSE)
    data[at : at + len(damage)] = damage
    data[2:4] = struct.pack("!H", len(data) - 20)
    message = stun.parse(bytes(data))
    assert message is None or message.transaction_id == stun.transaction_id(RFC_5769_RESPONSE)


def test_requests_are_repeated_ever_more_rarely_until_the_deadline() -> None:
    assert [round(at_s, 3) for at_s in stun.send_times_s(6)] == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 4.7]


async def test_the_external_endpoint_leaves_other_datagrams_in_the_queue(stun_server: StunServer) -> None:
    ours = network(*stun_server.endpoints)
    asking, peer = await ours.open_udp(4), await ours.open_udp(4)
    peer.send_to(b"not for STUN", asking.local)
    foreign = bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE))
    peer.send_to(foreign, asking.local)
    assert await ours.external_endpoint(asking, timeout_s=DEADLINE_S) == asking.local
    assert [await asking.receive(), await asking.receive()] == [(b"not for STUN", peer.local), (foreign, peer.local)]
    asking.close()
    peer.close()


async def test_two_questions_on_one_socket_do_not_mix(stun_server: StunServer) -> None:
    ours = network(*stun_server.endpoints)
    asking = await ours.open_udp(4)
    answers = await asyncio.gather(*(ours.external_endpoint(asking, timeout_s=DEADLINE_S) for _ in range(5)))
    assert set(answers) == {asking.local}
    asking.close()


async def test_a_dead_server_does_not_hold_the_next_one_up(stun_server: StunServer) -> None:
    silent = await network().open_udp(4)
    ours = network(silent.local, *stun_server.endpoints)
    asking = await ours.open_udp(4)
    began_s = asyncio.get_running_loop().time()
    assert await ours.external_endpoint(asking, timeout_s=DEADLINE_S) == asking.local
    assert asyncio.get_running_loop().time() - began_s < 1
    asking.close()
    silent.close()


async def test_a_lost_request_is_repeated() -> None:
    server = await network().open_udp(4)
    ours = network(server.local)
    asking = await ours.open_udp(4)
    pending = asyncio.create_task(ours.external_endpoint(asking, timeout_s=DEADLINE_S))
    first, _ = await server.receive()
    second, source = await server.receive()
    assert second == first
    response = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, stun.transaction_id(second))
    response.attributes["XOR-MAPPED-ADDRESS"] = ("192.0.2.1", 32853)
    server.send_to(bytes(response), source)
    assert await pending == ("192.0.2.1", 32853)
    asking.close()
    server.close()


async def test_no_answer_is_a_timeout_and_leaves_nothing_running() -> None:
    silent = await network().open_udp(4)
    ours = network(silent.local)
    asking = await ours.open_udp(4)
    with pytest.raises(TimeoutError):
        await ours.external_endpoint(asking, timeout_s=0.05)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    asking.close()
    silent.close()


async def test_an_error_response_is_no_address() -> None:
    server = await network().open_udp(4)
    ours = network(server.local)
    asking = await ours.open_udp(4)
    pending = asyncio.create_task(ours.external_endpoint(asking, timeout_s=DEADLINE_S))
    request, source = await server.receive()
    response = stun.Message(stun.Method.BINDING, stun.Class.ERROR, stun.transaction_id(request))
    response.attributes["ERROR-CODE"] = (420, "Unknown Attribute")
    server.send_to(bytes(response), source)
    with pytest.raises(TimeoutError, match="420"):
        await pending
    asking.close()
    server.close()


async def test_no_server_of_the_family_is_a_timeout_at_once(stun_server: StunServer) -> None:
    ours = KernelNetwork(Vantage(), stun_servers=stun_server.endpoints)
    asking = await ours.open_udp(6)
    with pytest.raises(TimeoutError, match="IPv6"):
        await ours.external_endpoint(asking, timeout_s=DEADLINE_S)
    asking.close()


async def test_a_shared_tcp_port_has_an_external_endpoint(stun_server: StunServer) -> None:
    ours = network(*stun_server.endpoints, address="127.0.0.5")
    listener = await ours.listen_tcp(Endpoint("0.0.0.0", 0), shared=True)
    asked: list[Counted] = []
    external = await ours.external_tcp_endpoint(4, listener.local.port, timeout_s=DEADLINE_S, discard=asked.append)
    assert external == listener.local
    assert len(asked) == 1
    assert asked[0].packets_sent
    listener.close()


async def test_a_server_that_refuses_tcp_is_one_that_does_not_answer() -> None:
    closed = await network().listen_tcp(Endpoint(HOME, 0))
    closed.close()
    ours = network(closed.local, address="127.0.0.5")
    asked: list[Counted] = []
    with pytest.raises(TimeoutError, match="refused"):
        await ours.external_tcp_endpoint(4, 0, timeout_s=DEADLINE_S, discard=asked.append)
    assert len(asked) == 1


@pytest.mark.parametrize("change", [0, stun.CHANGE_IP, stun.CHANGE_PORT, stun.CHANGE_IP | stun.CHANGE_PORT])
async def test_the_embedded_server_answers_from_where_it_is_asked_to(stun_server: StunServer, change: int) -> None:
    asking = await network().open_udp(4)
    transactions = stun.Transactions(asking.send_to)
    asking.tap(transactions.feed)
    server = stun_server.endpoints[0]
    answer = await transactions.binding(server, timeout_s=DEADLINE_S, change=change)
    assert answer.other is not None
    assert (answer.mapped, answer.other.ip) == (asking.local, stun_server.endpoints[1].ip)
    expected_ip = answer.other.ip if change & stun.CHANGE_IP else server.ip
    expected_port = answer.other.port if change & stun.CHANGE_PORT else server.port
    assert answer.source == (expected_ip, expected_port)
    asking.close()


async def test_the_embedded_server_ends_with_a_client_that_speaks_something_else(stun_server: StunServer) -> None:
    stream = await network().connect_tcp(stun_server.endpoints[0], timeout_s=DEADLINE_S)
    await stream.write(b"GET / HTTP/1.1\r\n\r\n\r\n\r\n")
    with pytest.raises(ConnectionLost):
        await stream.read(1)
    stream.close()


async def test_the_embedded_server_with_one_address_claims_no_other(stun_server: StunServer) -> None:
    single = await StunServer.start(["::1"])
    asking = await network(address="::1").open_udp(6)
    transactions = stun.Transactions(asking.send_to)
    asking.tap(transactions.feed)
    answer = await transactions.binding(single.endpoints[0], timeout_s=DEADLINE_S, change=stun.CHANGE_IP)
    assert answer == (asking.local, single.endpoints[0], None)
    asking.close()
    await single.close()
