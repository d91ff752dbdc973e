"""The gateway of a vantage: where its default route of a family leads."""

import ipaddress
import socket
import sys
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from warpfleet.net.interfaces import Unreachable
from warpfleet.net.vantage import Vantage

# Of the thread, not of the process: it is the thread that has entered the vantage's namespace.
_ROUTES = {4: Path("/proc/thread-self/net/route"), 6: Path("/proc/thread-self/net/ipv6_route")}
_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200  # linux/route.h
_ABROAD, _DISCARD_PORT = "2000::", 9  # of the global unicast range (RFC 4291 section 2.4); nothing is sent there


@dataclass(frozen=True, slots=True)
class Gateway:
    """A router's address on a network of ours; `device` is the interface that leads to it."""

    ip: str
    device: str

    @property
    def af(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.ip else 4


def find(vantage: Vantage, af: int) -> Gateway | None:
    """The gateway of a vantage's default route, None where it has none. MissingError where the vantage is not there,
    OSError where the kernel does not let us look."""
    devices = {interface.name for interface in vantage.interfaces()}
    try:
        table = vantage.call_inside(lambda: _ROUTES[af].read_text(encoding="ascii"))
    except FileNotFoundError:  # a kernel without this family
        return None
    return default_gateway(table, af, devices)


def default_gateway(table: str, af: int, devices: Collection[str]) -> Gateway | None:
    """Where the best default route leads in a table of the kernel's, of those by way of these interfaces."""
    routes = [found for line in table.splitlines() if (found := _parse(line, af))]
    usable = [(metric, gateway) for metric, gateway in routes if gateway.device in devices]
    return min(usable, key=lambda route: route[0])[1] if usable else None


def connected(vantage: Vantage, gateway: Gateway, port: int) -> socket.socket:
    """A UDP socket at the vantage that exchanges datagrams with a port of the gateway and with nobody else, from the
    address that strangers come to.

    Unreachable where the vantage has no way there."""
    opened = vantage.open(gateway.af, socket.SOCK_DGRAM, ip=_source(vantage, gateway))
    try:
        opened.connect(socket_address(vantage, gateway, port))
    except OSError as error:
        opened.close()
        raise Unreachable(f"gateway {gateway.ip}: {error.strerror}") from error
    return opened


def socket_address(vantage: Vantage, gateway: Gateway, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What a socket connects to; a link-local gateway is found on its own interface alone."""
    if gateway.af == 4:
        return gateway.ip, port
    return gateway.ip, port, 0, vantage.call_inside(lambda: socket.if_nametoindex(gateway.device))


def _source(vantage: Vantage, gateway: Gateway) -> str | None:
    """The address to ask from, None for the one that the kernel takes anyway. To a link-local gateway that is a
    link-local one, which strangers cannot come to; it is the one by which we go through that gateway instead."""
    if not ipaddress.ip_address(gateway.ip).is_link_local:
        return None
    with closing(vantage.open(gateway.af, socket.SOCK_DGRAM)) as opened:
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, gateway.device.encode())
            opened.connect((_ABROAD, _DISCARD_PORT))
        except OSError as error:
            raise Unreachable(f"gateway {gateway.ip}: {error.strerror}") from error
        return str(opened.getsockname()[0])


def _parse(line: str, af: int) -> tuple[int, Gateway] | None:
    """Metric and gateway of a default route, as a line of the kernel's table has them."""
    fields = line.split()
    try:
        return _parse_v4(fields) if af == 4 else _parse_v6(fields)
    except (ValueError, IndexError):  # the heading
        return None


def _parse_v4(fields: list[str]) -> tuple[int, Gateway] | None:
    device, destination, gateway, flags, _, _, metric, mask = fields[:8]
    usable = int(flags, 16) & _RTF_UP and int(flags, 16) & _RTF_GATEWAY
    if not usable or int(destination, 16) or int(mask, 16):
        return None
    packed = int(gateway, 16).to_bytes(4, sys.byteorder)
    return int(metric), Gateway(str(ipaddress.IPv4Address(packed)), device)


def _parse_v6(fields: list[str]) -> tuple[int, Gateway] | None:
    destination, length, _, _, gateway, metric, _, _, flags, device = fields[:10]
    usable = int(flags, 16) & _RTF_UP and int(flags, 16) & _RTF_GATEWAY and not int(flags, 16) & _RTF_REJECT
    if not usable or int(destination, 16) or int(length, 16):
        return None
    return int(metric, 16), Gateway(str(ipaddress.IPv6Address(bytes.fromhex(gateway))), device)
