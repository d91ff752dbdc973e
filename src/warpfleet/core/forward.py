"""Forwarded ports: what may be dialled on the word of a peer, and what a user asks to have forwarded."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, Self

from warpfleet.core.endpoint import Scope, scope_of

PORT_MAX = 65_535
HOST_MAX_CHARS = 253  # of a host name, RFC 1035 section 2.3.4 in text form
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # underscores are found in the wild
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5}|\*)")
_LOCAL = re.compile(r"(?:(?P<bind>\[[^\[\]]+\]|[^:\[\]]+):)?(?P<port>[0-9]{1,5}):(?P<destination>(?:\[|[^:\[\]]+:).*)")
LOOPBACK = "127.0.0.1"


class Destination(NamedTuple):
    """What is to be dialled: an IP address or a host name, in canonical form, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return _joined(self.host, self.port)

    @classmethod
    def of(cls, host: str, port: int) -> Self:
        """The destination in canonical form. ValueError where there is nothing that could be dialled."""
        if not 0 < port <= PORT_MAX:
            raise ValueError(f"the port must be between 1 and {PORT_MAX}")
        return cls(_dialled(host), port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`, an IPv6 address in brackets. ValueError."""
        found = _HOST_PORT.fullmatch(text)
        if found is None or found["port"] == "*":
            raise ValueError("write it like 127.0.0.1:22, [::1]:22 or db.example.net:5432")
        return cls.of(found["v6"] or found["host"], int(found["port"]))


@dataclass(frozen=True, slots=True)
class Permission:
    """Leave to have a host dialled, at one port, or at any where `port` is None.

    A host stands for itself alone: a name that resolves to a permitted address is not permitted by it.
    """

    host: str
    port: int | None

    def __str__(self) -> str:
        return _joined(self.host, "*" if self.port is None else self.port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port` or `host:*`, an IPv6 address in brackets. ValueError."""
        found = _HOST_PORT.fullmatch(text)
        if found is None:
            raise ValueError("write it like 127.0.0.1:22, or 10.0.0.5:* for every port of a host")
        if found["port"] != "*":
            return cls(*Destination.parse(text))
        return cls(_dialled(found["v6"] or found["host"]), None)

    def covers(self, destination: Destination) -> bool:
        """Whether a destination is what this permits."""
        return self.host == destination.host and self.port in (None, destination.port)


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A local port, 0 for any that is free, and where its connections are to end up beside the peer."""

    bind: str
    port: int
    destination: Destination

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[bind:]port:host:hostport` as ssh(1) does for -L, IPv6 addresses in brackets. ValueError."""
        found = _LOCAL.fullmatch(text)
        if found is None:
            raise ValueError("write it like 8080:127.0.0.1:80, or 127.0.0.1:8080:127.0.0.1:80")
        bind = canonical_host((found["bind"] or LOOPBACK).removeprefix("[").removesuffix("]"))
        if int(found["port"]) > PORT_MAX:
            raise ValueError(f"the port must be between 0 and {PORT_MAX}")
        return cls(bind, int(found["port"]), Destination.parse(found["destination"]))


def canonical_host(text: str) -> str:
    """An IP address as the standard library writes it, or a host name in lower case without its last dot.

    ValueError for anything else, numbers that some resolvers take for an address among it.
    """
    try:
        return str(ip_address(text))
    except ValueError:
        name = text.lower().removesuffix(".")
        if not _HOST_NAME.fullmatch(name) or len(name) > HOST_MAX_CHARS or _NUMBER.fullmatch(name.rpartition(".")[2]):
            raise ValueError("the host is neither an IP address nor a host name") from None
        return name


def _dialled(text: str) -> str:
    """The same for a host that is to be dialled: ValueError for addresses that no host has."""
    host = canonical_host(text)
    if (host[0].isdigit() or ":" in host) and scope_of(host) is Scope.UNUSABLE:
        raise ValueError("no host has this address")
    return host


def _joined(host: str, port: object) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
