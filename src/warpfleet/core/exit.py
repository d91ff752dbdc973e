"""An exit to the internet: the external address that the nodes behind it share, and what is known of its NATs."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Network, ip_address
from typing import Self

from warpfleet.core.nat import NatBehaviour
from warpfleet.core.peer import AddressFamily

INTERNET = "internet"  # the realm of addresses that are unique in the whole world
_SITE_PREFIX_BITS = 64  # RFC 4291 section 2.5.4: a site's hosts share the first 64 bits, and its firewall
_KNOWN_MAX = 4096  # addresses whose exit is kept: each plan asks for it some seventy times


@dataclass(frozen=True, slots=True, order=True)
class Exit:
    """Where packets leave for the internet. Addresses are unique within one address realm only (RFC 2663 section 2.1):
    two laboratories have the same ones. `address` is an external IPv4 address, or an IPv6 /64 prefix."""

    realm: str
    af: AddressFamily
    address: str

    @classmethod
    def of(cls, realm: str, external_ip: str) -> Self:
        """The exit that an external address belongs to."""
        return cls(realm, *_leaves_by(external_ip))


@lru_cache(_KNOWN_MAX)
def _leaves_by(external_ip: str) -> tuple[AddressFamily, str]:
    ip = ip_address(external_ip)
    return (4, str(ip)) if ip.version == 4 else (6, str(IPv6Network((ip, _SITE_PREFIX_BITS), strict=False)))


@dataclass(frozen=True, slots=True)
class KnownNat:
    """What was found out about the NATs at an exit, and when (seconds since 1970)."""

    exit: Exit
    behaviour: NatBehaviour
    observed_at: float
