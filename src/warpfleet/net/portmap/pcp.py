"""PCP messages (RFC 6887): ANNOUNCE, and MAP for TCP without options. Pure: bytes in and out.

Over IPv4 a MAP makes a mapping, over IPv6 a pinhole in the gateway's firewall.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.portmap.mapping import MappingRefused

PORT = 5351  # RFC 6887 section 19
NONCE_BYTES = 12
MAX_MESSAGE_BYTES = 1100  # section 7
_VERSION = 2
_ANNOUNCE, _MAP, _ANSWER = 0, 1, 0x80
_TCP = 6
_RESULTS = {
    1: "UNSUPP_VERSION",
    2: "NOT_AUTHORIZED",
    3: "MALFORMED_REQUEST",
    4: "UNSUPP_OPCODE",
    5: "UNSUPP_OPTION",
    6: "MALFORMED_OPTION",
    7: "NETWORK_FAILURE",
    8: "NO_RESOURCES",
    9: "UNSUPP_PROTOCOL",
    10: "USER_EX_QUOTA",
    11: "CANNOT_PROVIDE_EXTERNAL",
    12: "ADDRESS_MISMATCH",
    13: "EXCESSIVE_REMOTE_PEERS",
}  # section 7.4
_REQUEST = struct.Struct("!BBxxI16s")  # version, opcode, lifetime, our address
_RESPONSE = struct.Struct("!BBxBII12x")  # version, opcode, result code, lifetime, seconds since the epoch
_BODY = struct.Struct("!12sB3xHH16s")  # nonce, protocol, internal port, external port, external address


@dataclass(frozen=True, slots=True)
class Mapped:
    """A TCP port is mapped for `lifetime_s`; 0 says that it is no more (section 11.3)."""

    epoch_s: int
    external: Endpoint
    lifetime_s: int


def announce_request(client_ip: str) -> bytes:
    """Ask whether anybody is there (section 14.1); `client_ip` is the address that the packet leaves from."""
    return _REQUEST.pack(_VERSION, _ANNOUNCE, 0, _packed(client_ip))


def map_request(client_ip: str, nonce: bytes, internal_port: int, suggested: Endpoint, lifetime_s: int) -> bytes:
    """Ask for a mapping of a TCP port (section 11.1). A lifetime of 0 takes back the one that was made with this
    nonce (section 15.1). `suggested` may be unspecified in either part."""
    head = _REQUEST.pack(_VERSION, _MAP, lifetime_s, _packed(client_ip))
    return head + _BODY.pack(nonce, _TCP, internal_port, suggested.port, _packed(suggested.ip))


def parse_announced(data: bytes) -> int | None:
    """The epoch in an answer to `announce_request`, None for what is none. MappingRefused where it is an error."""
    head = _head(data, _ANNOUNCE)
    return head[1] if head else None


def parse_mapped(data: bytes, nonce: bytes, internal_port: int) -> Mapped | None:
    """The answer to the `map_request` of this nonce and port, None for what is none (section 11.4). MappingRefused
    where it is an error."""
    if len(data) < _RESPONSE.size + _BODY.size:
        return None
    answered, protocol, port, external_port, packed = _BODY.unpack_from(data, _RESPONSE.size)
    if (answered, protocol, port) != (nonce, _TCP, internal_port):
        return None
    head = _head(data, _MAP)
    if head is None:
        return None
    lifetime_s, epoch_s = head
    return Mapped(epoch_s, Endpoint(_unpacked(packed), external_port), lifetime_s)


def _head(data: bytes, opcode: int) -> tuple[int, int] | None:
    """Lifetime and epoch of an answer."""
    if not _RESPONSE.size <= len(data) <= MAX_MESSAGE_BYTES or len(data) % 4:
        return None
    version, answered, result, lifetime_s, epoch_s = _RESPONSE.unpack_from(data)
    if version != _VERSION or answered != _ANSWER | opcode:
        return None
    if result:
        raise MappingRefused(f"PCP result {result}: {_RESULTS.get(result, 'unknown')}")
    return int(lifetime_s), int(epoch_s)


def _packed(ip: str) -> bytes:
    """An address in 16 bytes, an IPv4 one as an IPv4-mapped one (section 5)."""
    address = ip_address(ip)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _unpacked(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)
