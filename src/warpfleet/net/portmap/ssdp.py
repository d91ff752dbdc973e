"""SSDP: who on our network is a UPnP device (UPnP Device Architecture 1.1 section 1.3). A question and an answer over
UDP, written here, since a library for it costs every node the import of HTTP and XML, whether a gateway answers or not.
"""

import asyncio
import socket
from contextlib import closing
from urllib.parse import urlsplit

from warpfleet.net.portmap.gateway import Gateway, socket_address
from warpfleet.net.portmap.udp import repeated
from warpfleet.net.vantage import Vantage

PORT = 1900
SEARCH_S = 1.3  # the most that a device may wait before it answers, and some for the way there and back
_DELAY_S = 1  # of these: the least that MX can say
_EVERYBODY = {4: "239.255.255.250", 6: "FF02::C"}
_HOPS = 2  # section 1.3.2
_MAX_DATAGRAM_BYTES = 2048
_GATEWAY_DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"  # one of version 2 answers to it, too


async def location_of(gateway: Gateway, vantage: Vantage, own_ip: str) -> str:
    """Where the gateway's description is, by its own word: whoever else answers a multicast is a stranger. Asked from
    the address that the gateway knows us by, so that it answers from the one that we know it by. Does not give up;
    OSError, Unreachable."""
    loop = asyncio.get_running_loop()
    everybody = _EVERYBODY[gateway.af]
    group = socket_address(vantage, Gateway(everybody, gateway.device), PORT)
    with closing(vantage.open(gateway.af, socket.SOCK_DGRAM, port=0, ip=own_ip)) as opened:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _HOPS)
        async with repeated(lambda: loop.sock_sendto(opened, question(everybody), group)):
            while True:
                data, source = await loop.sock_recvfrom(opened, _MAX_DATAGRAM_BYTES)
                location = location_in(data)
                if source[0] == gateway.ip and http_host(location) == gateway.ip:
                    return location


def question(everybody: str) -> bytes:
    """The search for gateways (section 1.3.2)."""
    host = f"[{everybody}]" if ":" in everybody else everybody
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST:{host}:{PORT}",
        'MAN:"ssdp:discover"',
        f"MX:{_DELAY_S}",
        f"ST:{_GATEWAY_DEVICE}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def location_in(answer: bytes) -> str:
    """The URL that an answer to a search names (section 1.3.3), empty where it is none."""
    status, *headers = answer.decode(errors="replace").split("\n")
    if not status.startswith("HTTP/1.1 200"):
        return ""
    values = (value for name, _, value in (line.partition(":") for line in headers) if name.lower() == "location")
    return next(values, "").strip()


def http_host(url: str) -> str:
    """The host of an HTTP URL, empty where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme == "http" else ""
