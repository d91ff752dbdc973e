"""NAT-PMP messages (RFC 6886). Pure: bytes in and out."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from warpfleet.net.portmap.mapping import MappingRefused

PORT = 5351  # RFC 6886 section 3.1
_VERSION = 0
_OP_ADDRESS, _OP_MAP_TCP, _ANSWER = 0, 2, 128
_RESULTS = {
    1: "unsupported version",
    2: "not authorized",
    3: "network failure",
    4: "out of resources",
    5: "unsupported opcode",
}  # RFC 6886 section 3.5
_HEAD = struct.Struct("!BBHI")  # version, opcode, result code, seconds since the epoch
_ADDRESS = struct.Struct("!4s")
_MAPPED = struct.Struct("!HHI")  # internal port, external port, lifetime


@dataclass(frozen=True, slots=True)
class ExternalAddress:
    """The gateway's external address (section 3.2)."""

    epoch_s: int
    ip: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """A TCP port is mapped for `lifetime_s`; 0 says that it is no more (section 3.3)."""

    epoch_s: int
    internal_port: int
    external_port: int
    lifetime_s: int


def address_request() -> bytes:
    """Ask for the external address (section 3.2)."""
    return bytes((_VERSION, _OP_ADDRESS))


def map_request(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """Ask for a mapping of a TCP port (section 3.3); a lifetime of 0 takes it back, with no external port
    (section 3.4)."""
    return struct.pack("!BBHHHI", _VERSION, _OP_MAP_TCP, 0, internal_port, external_port, lifetime_s)


def parse_address(data: bytes) -> ExternalAddress | None:
    """The answer to `address_request`, None for what is none. MappingRefused where it is an error."""
    epoch_s = _head(data, _OP_ADDRESS, _HEAD.size + _ADDRESS.size)
    if epoch_s is None:
        return None
    (packed,) = _ADDRESS.unpack_from(data, _HEAD.size)
    return ExternalAddress(epoch_s, str(IPv4Address(packed)))


def parse_mapped(data: bytes, internal_port: int) -> Mapped | None:
    """The answer to `map_request` for a port, None for what is none. MappingRefused where it is an error."""
    epoch_s = _head(data, _OP_MAP_TCP, _HEAD.size + _MAPPED.size)
    if epoch_s is None:
        return None
    mapped = Mapped(epoch_s, *_MAPPED.unpack_from(data, _HEAD.size))
    return mapped if mapped.internal_port == internal_port else None


def _head(data: bytes, opcode: int, size: int) -> int | None:
    """The epoch of an answer; an error may be as short as its head (section 3.5)."""
    if len(data) < _HEAD.size:
        return None
    version, answered, result, epoch_s = _HEAD.unpack_from(data)
    if version != _VERSION or answered != _ANSWER + opcode:
        return None
    if result:
        raise MappingRefused(f"NAT-PMP result {result}: {_RESULTS.get(result, 'unknown')}")
    return int(epoch_s) if len(data) >= size else None
