"""Transport addresses, and what kind of place an address is."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple, Self


def canonical(text: str) -> str:
    """An IP address in canonical text form, one text for each; ValueError where it is none, or has a zone, which means
    nothing to other hosts (RFC 4007 section 6)."""
    if "%" in text:
        raise ValueError("an address with a zone")
    return str(ip_address(text))


class Endpoint(NamedTuple):
    """A transport address: an IP address in canonical text form, and a port."""

    ip: str
    port: int

    @property
    def af(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.ip else 4

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.af == 6 else f"{self.ip}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `192.0.2.7:3478` or `[2001:db8::7]:3478`; ValueError where it is neither."""
        host, _, port = text.rpartition(":")
        return cls(canonical(host.removeprefix("[").removesuffix("]")), int(port))


class Scope(StrEnum):
    """How far an address reaches. Documentation ranges count as global: laboratories use them as the internet."""

    GLOBAL = "global"
    PRIVATE = "private"  # RFC 1918, RFC 6598 (shared, behind carrier-grade NAT), RFC 4193 (unique local)
    LINK_LOCAL = "link_local"
    LOOPBACK = "loopback"
    UNUSABLE = "unusable"  # multicast, unspecified, broadcast, reserved, IPv4-mapped


_PRIVATE = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
# Addresses that embed an IPv4 one (mapped, translated, NAT64, Teredo, 6to4) hide what they reach.
_EMBEDDING = ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
_RESERVED = ("0.0.0.0/8", "192.88.99.0/24", "240.0.0.0/4", "100::/64", "fec0::/10")
_UNUSABLE = tuple(ip_network(text) for text in (*_RESERVED, *_EMBEDDING))
_KNOWN_MAX = 4096  # addresses whose scope is kept: it is asked for with each packet
_COMPATIBLE = ip_network("::/96")  # embeds an IPv4 address, too, but has the loopback address in it


@lru_cache(_KNOWN_MAX)
def scope_of(ip: str) -> Scope:
    """The scope of an IP address."""
    address: IPv4Address | IPv6Address = ip_address(ip)
    # First of all: from Python 3.13 on, a mapped address says of itself what the IPv4 one is.
    if address.is_multicast or address.is_unspecified or any(address in network for network in _UNUSABLE):
        return Scope.UNUSABLE
    if address.is_loopback:
        return Scope.LOOPBACK
    if address in _COMPATIBLE:
        return Scope.UNUSABLE
    if address.is_link_local or "%" in ip:
        return Scope.LINK_LOCAL
    if any(address in network for network in _PRIVATE):
        return Scope.PRIVATE
    return Scope.GLOBAL


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of a network interface at a vantage."""

    name: str
    ip: str
    prefix_len: int
