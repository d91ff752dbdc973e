"""The servers as a host behind a NAT meets them, the delay of a line, and the wall towards the machine's network."""

import asyncio
import base64
import errno
import hashlib
import hmac
import secrets
import socket
import struct
import threading
import time
from typing import Any

import pytest
import yaml
from aioice import stun
from aioice.turn import TurnClientTcpProtocol, TurnClientUdpProtocol

from warpfleet.configs.fleet import Fleet
from warpfleet.configs.loader import load

pytestmark = pytest.mark.lab

CHANGE_ADDRESS_AND_PORT = struct.pack("!HHI", 0x0003, 4, 0x06)  # RFC 5780 section 7.2
OTHER_ADDRESS = 0x802C  # RFC 5780 section 7.4


def binding_request(attributes: bytes = b"") -> bytes:
    return struct.pack("!HHI12s", 0x0001, len(attributes), 0x2112A442, secrets.token_bytes(12)) + attributes


def attributes(message: bytes) -> dict[int, bytes]:
    found, at = {}, 20
    while at < len(message):
        kind, length = struct.unpack_from("!HH", message, at)
        found[kind] = message[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4
    return found


def test_stun_knows_its_other_address(bench: Any) -> None:
    host = bench.udp("port_restricted")
    host.sendto(binding_request(), ("203.0.113.20", 3478))
    other = attributes(host.recv(1000))[OTHER_ADDRESS]
    assert struct.unpack("!HH4s", other) == (1, 3479, socket.inet_aton("203.0.113.21"))


def test_stun_answers_from_its_other_address(bench: Any) -> None:
    host = bench.udp("full_cone")
    host.sendto(binding_request(), ("203.0.113.20", 3478))
    host.recv(1000)
    host.sendto(binding_request(CHANGE_ADDRESS_AND_PORT), ("203.0.113.20", 3478))
    assert host.recvfrom(1000)[1] == ("203.0.113.21", 3479)


def credentials(bench: Any) -> tuple[str, str]:
    """Ephemeral TURN credentials from the secret in the fleet file."""
    secret = yaml.safe_load(bench.lab.fleet_path.read_text())["services"]["turn"][0]["secret"]
    username = f"{int(time.time()) + 600}:test"
    return username, base64.b64encode(hmac.digest(secret.encode(), username.encode(), hashlib.sha1)).decode()


async def allocate(bench: Any, place: str, transport: str) -> Any:
    """A TURN allocation of a place: the protocol, with its relayed address."""
    username, password = credentials(bench)
    server = ("203.0.113.20", 3478)
    made = (TurnClientUdpProtocol if transport == "udp" else TurnClientTcpProtocol)(
        server, username, password, 600, 500
    )
    loop = asyncio.get_running_loop()
    if transport == "udp":
        opened = bench.udp(place)
        opened.connect(server)
        opened.setblocking(False)
        await loop.create_datagram_endpoint(lambda: made, sock=opened)
    else:
        opened = bench.tcp(place)
        opened.setblocking(False)
        await loop.sock_connect(opened, server)
        await loop.create_connection(lambda: made, sock=opened)
    made.receiver = Receiver()
    return made, await asyncio.wait_for(made.connect(), 5)


class Receiver:
    """What aioice hands the relayed data to."""

    def __init__(self) -> None:
        self.data: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
        self.data.put_nowait(data)


@pytest.mark.parametrize(("place", "transport"), [("symmetric_random", "udp"), ("udp_blocked", "tcp")])
async def test_two_relayed_addresses_reach_each_other(bench: Any, place: str, transport: str) -> None:
    (one, address_one), (two, address_two) = (
        await allocate(bench, place, transport),
        await allocate(bench, "symmetric_sequential", "udp"),
    )
    try:
        await two.send_data(b"opens", address_one)
        await one.send_data(b"through two relays", address_two)
        assert await asyncio.wait_for(two.receiver.data.get(), 5) == b"through two relays"
    finally:
        await one.delete()
        await two.delete()


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.168.1.2", "10.0.0.1", "100.64.0.2"])
async def test_the_relay_refuses_private_peers(bench: Any, peer: str) -> None:
    protocol, _ = await allocate(bench, "full_cone", "udp")
    try:
        with pytest.raises(stun.TransactionFailed) as refused:
            await protocol.send_data(b"inside", (peer, 80))
        assert refused.value.response.attributes["ERROR-CODE"][0] == 403
    finally:
        await protocol.delete()


def test_mqtt_answers_on_443_where_little_else_gets_out(bench: Any) -> None:
    host = bench.tcp("udp_blocked")
    host.connect(("203.0.113.10", 443))
    host.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x0a\x00\x02me")
    assert host.recv(4) == b"\x20\x02\x00\x00"


def test_time_is_the_machines_own(bench: Any) -> None:
    host = bench.udp("full_cone")
    host.sendto(b"\x23" + bytes(47), ("203.0.113.30", 123))
    seconds, fraction = struct.unpack_from("!II", host.recv(100), 40)
    assert abs(seconds - 2_208_988_800 + fraction / 2**32 - time.time()) < 0.1  # RFC 5905 section 6: since 1900


def echo(server: socket.socket, count: int) -> threading.Thread:
    def answer() -> None:
        for _ in range(count):
            data, source = server.recvfrom(100)
            server.sendto(data, source)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def round_trips_ms(bench: Any, host: str, server: socket.socket, count: int = 10) -> list[float]:
    """Echoed datagrams, one after the other, in milliseconds."""
    client = bench.udp(host)
    thread = echo(server, count)
    taken = []
    for _ in range(count):
        began = time.monotonic()
        client.sendto(b"x", server.getsockname())
        client.recv(100)
        taken.append((time.monotonic() - began) * 1000)
    thread.join()
    return taken


@pytest.mark.parametrize("host", ["far", "far_public"])
def test_delay_is_what_was_asked(bench: Any, host: str) -> None:
    taken = round_trips_ms(bench, host, bench.udp("core", "203.0.113.10"))
    assert min(taken) >= 40
    assert min(taken) < 45


def test_no_delay_where_none_was_asked(bench: Any) -> None:
    assert min(round_trips_ms(bench, "full_cone", bench.udp("core", "203.0.113.10"))) < 5


def test_delayed_packets_keep_their_order(bench: Any) -> None:
    host, server = bench.udp("far"), bench.udp("core", "203.0.113.10")
    sent = [index.to_bytes(2, "big") for index in range(150)]  # fewer than a socket buffer holds
    for data in sent:
        host.sendto(data, server.getsockname())
    assert [server.recv(100) for _ in sent] == sent


@pytest.mark.parametrize("prefix", ["203.0.113.", "198.18.0."])
def test_nothing_leads_in_from_the_machines_own_network(lab: Any, prefix: str) -> None:
    assert lab.namespaces
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as outside:
        outside.settimeout(2)
        assert outside.connect_ex((f"{prefix}10", 443)) in (errno.EHOSTUNREACH, errno.ENETUNREACH)


def test_fleet_file_is_valid_and_private(lab: Any) -> None:
    fleet = load(lab.fleet_path, Fleet)
    assert fleet.realm.startswith("lab-")
    listens = {node.name: node.listen for node in fleet.nodes}
    assert listens["public"] == (443, 0)
    assert listens["full_cone"] == (0,)
    assert all(node.vantage and node.vantage.netns in lab.namespaces for node in fleet.nodes)
    assert lab.fleet_path.stat().st_mode & 0o077 == 0
