"""The default route in the kernel's tables, and questions over real sockets to gateways that are slow, or lie."""

import asyncio
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from warpfleet.core.endpoint import Endpoint
from warpfleet.net import network
from warpfleet.net.portmap import gateway, natpmp
from warpfleet.net.portmap.client import GatewayClient, client_at, no_mappers
from warpfleet.net.portmap.gateway import Gateway, connected, default_gateway
from warpfleet.net.portmap.mapping import GatewaySilent, MappingRefused
from warpfleet.net.portmap.udp import ask
from warpfleet.net.vantage import Vantage

FOUR = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0101A8C0	0003	0	0	200	00000000	0	0	0
eth0	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	00000000	00000000	0001	0	0	0	00000000	0	0	0
tun1	00000000	0200000A	0003	0	0	0	00000080	0	0	0
"""
NOWHERE = "0" * 32
SIX = f"""\
20010db8000000000000000000000000 40 {NOWHERE} 00 {NOWHERE} 00000100 00000001 00000000 00000001     eth0
{NOWHERE} 00 {NOWHERE} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
{NOWHERE} 00 {NOWHERE} 00 {NOWHERE} ffffffff 00000001 00000000 00200200       lo
"""
EVERY = ("eth0", "eth1", "tun0", "tun1", "lo")
HOME = Vantage(address="127.0.0.1")


@pytest.mark.parametrize(
    ("table", "af", "devices", "found"),
    [
        (FOUR, 4, EVERY, Gateway("10.0.0.1", "eth0")),
        (FOUR, 4, ("eth1",), Gateway("192.168.1.1", "eth1")),
        (FOUR, 4, ("tun0", "tun1"), None),  # without a gateway, and half of the internet
        (SIX, 6, EVERY, Gateway("fe80::1", "eth0")),
        (SIX, 6, ("lo",), None),
        ("", 4, EVERY, None),
        ("", 6, EVERY, None),
    ],
)
def test_the_gateway_in_the_kernels_table(table: str, af: int, devices: tuple[str, ...], found: Gateway | None) -> None:
    assert default_gateway(table, af, devices) == found


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Where a gateway listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.bind(("127.0.0.1", 0))
        yield made


async def asked(server: socket.socket, *answers: bytes, timeout_s: float = 2.0) -> natpmp.ExternalAddress:
    """Ask for the external address; each packet that comes gets the next answer, the last one more than once."""
    loop = asyncio.get_running_loop()
    left = list(answers)

    async def serve() -> None:
        while True:
            _, source = await loop.sock_recvfrom(server, 100)
            if left:
                await loop.sock_sendto(server, left.pop(0), source)

    serving = asyncio.create_task(serve())
    try:
        with closing(connected(HOME, Gateway("127.0.0.1", "lo"), server.getsockname()[1])) as opened:
            return await ask(opened, natpmp.address_request(), natpmp.parse_address, timeout_s=timeout_s)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


ANSWER = struct.pack("!BBHI4s", 0, 128, 0, 7, bytes((203, 0, 113, 7)))


async def test_garbage_is_passed_over_and_the_question_sent_again(server: socket.socket) -> None:
    assert await asked(server, b"", b"garbage", b"\x02" * 1100, ANSWER) == natpmp.ExternalAddress(7, "203.0.113.7")


async def test_a_gateway_that_says_no_is_believed(server: socket.socket) -> None:
    with pytest.raises(MappingRefused):
        await asked(server, ANSWER[:2] + b"\0\x02" + ANSWER[4:])


async def test_silence_ends_in_time(server: socket.socket) -> None:
    with pytest.raises(GatewaySilent):
        await asked(server, timeout_s=0.1)


async def test_a_port_that_nobody_has_is_known_at_once(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    async with asyncio.timeout(1.0):
        with (
            closing(connected(HOME, Gateway("127.0.0.1", "lo"), port)) as opened,
            pytest.raises(GatewaySilent, match="does not listen"),
        ):
            await ask(opened, natpmp.address_request(), natpmp.parse_address, timeout_s=60.0)


async def test_a_stranger_is_not_heard(server: socket.socket) -> None:
    with closing(connected(HOME, Gateway("127.0.0.1", "lo"), server.getsockname()[1])) as opened:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(ANSWER, opened.getsockname())
        with pytest.raises(GatewaySilent):
            await ask(opened, natpmp.address_request(), natpmp.parse_address, timeout_s=0.1)


async def finds_no_gateway(node: GatewayClient) -> None:
    """Whoever waits for a mapping hears soon that none is to come."""
    lease = node.lease(443)
    async with asyncio.timeout(1.0):
        await lease.settled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await lease.changed()


async def test_a_vantage_that_is_gone_has_no_gateway() -> None:
    node = client_at(Vantage(netns="nowhere"), 4)
    await finds_no_gateway(node)
    await node.close()


async def test_who_has_no_descriptors_left_has_no_gateway_either() -> None:
    node, limits = client_at(Vantage(), 4), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            gateway.find(Vantage(), 4)
        await finds_no_gateway(node)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await node.close()


@pytest.mark.parametrize(
    ("stun", "asked"),
    [((), []), (("127.0.0.1",), []), (("::1", "2001:db8::1"), []), (("127.0.0.1", "203.0.113.1"), [4])],
)
async def test_only_who_has_a_server_on_the_internet_asks_a_gateway(
    stun: tuple[str, ...], asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    families: list[int] = []

    def client(_: Vantage, af: int) -> GatewayClient:
        families.append(af)
        return GatewayClient(no_mappers)

    monkeypatch.setattr(network, "client_at", client)
    node = network.KernelNetwork(HOME, stun_servers=[Endpoint(ip, 3478) for ip in stun])
    await node.map_port(443, 4).settled()
    await node.close()
    assert families == asked
