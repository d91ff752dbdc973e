"""Who has which local port of one host, for one transport."""

import errno
import os
import random
from dataclasses import dataclass
from ipaddress import ip_address

from warpfleet.core.endpoint import Endpoint

_FIRST, _LAST = 32_768, 60_999  # Linux: net.ipv4.ip_local_port_range


@dataclass(frozen=True, eq=False, slots=True)
class Binding:
    """One socket's hold of a local transport address; an unspecified address means all of the host's."""

    local: Endpoint
    shared: bool


class Ports:
    """The ports in use. Sockets that are bound as shared ones share theirs with each other."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._bindings: set[Binding] = set()

    def bind(self, local: Endpoint, *, shared: bool = False) -> Binding:
        """Take a port, 0 being any free one. OSError where others have it."""
        port = local.port
        while not port or (local.port == 0 and self._holders(Endpoint(local.ip, port))):
            port = self._rng.randint(_FIRST, _LAST)
        binding = Binding(Endpoint(local.ip, port), shared)
        if any(not (shared and other.shared) for other in self._holders(binding.local)):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._bindings.add(binding)
        return binding

    def release(self, binding: Binding) -> None:
        """Give a port back."""
        self._bindings.remove(binding)

    def _holders(self, local: Endpoint) -> list[Binding]:
        return [
            other
            for other in self._bindings
            if other.local.port == local.port and other.local.af == local.af and _overlap(other.local.ip, local.ip)
        ]


def covers(ip: str, address: str) -> bool:
    """Whether a socket that is bound to `ip` gets what is sent to `address`, both of one family."""
    return ip == address or ip_address(ip).is_unspecified


def _overlap(one: str, other: str) -> bool:
    return covers(one, other) or covers(other, one)
