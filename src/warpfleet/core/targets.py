"""Which addresses an attempt may send to, and how much."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import ip_address, ip_interface

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Interface, Scope, scope_of

# Private addresses are targets only where the route type says that the peer sits in our own network, loopback ones
# only where it sits on our own machine. Link-local, multicast and reserved addresses never are.
_PERMITTED = {
    RouteType.EXT: frozenset({Scope.GLOBAL}),
    RouteType.NIC: frozenset({Scope.GLOBAL, Scope.PRIVATE}),
    RouteType.LOOPBACK: frozenset({Scope.LOOPBACK}),
}


def permitted(ip: str, route: RouteType) -> bool:
    """Whether an attempt over this route type may send to an address."""
    return scope_of(ip) in _PERMITTED[route]


def loopback_alias(key: bytes) -> str:
    """A node's own address of 127/8, derived from its 32-byte public key: nodes of one machine share a loopback
    interface and yet may listen on one port, and nobody else's service is taken for theirs."""
    digest = sha256(key).digest()
    return f"127.{digest[0]}.{digest[1]}.{digest[2] % 254 + 1}"


def may_be_peer(ip: str, route: RouteType, interfaces: Iterable[Interface], alias: str) -> bool:
    """Whether an address that a peer claims can be its own: over `nic` one in a subnet of ours (`interfaces`), over
    `loopback` the peer's alias alone. What a peer says of itself must not lead to somebody else's service."""
    if not permitted(ip, route):
        return False
    if route is RouteType.NIC:
        return any(ip_address(ip) in ip_interface(f"{i.ip}/{i.prefix_len}").network for i in interfaces)
    return route is RouteType.EXT or ip == alias


# Crowds of peers may be behind one NAT, or have relayed addresses at one server; most of them send far less than they
# may. It takes so many that are dishonest, and name the address of another one as theirs, to use up what it may get.
_PEERS_AT_A_TARGET = 16


@dataclass(frozen=True, slots=True)
class Allowance:
    """What all attempts of one plugin between a node and a peer may send together, to whichever addresses: so many
    packets at once, and a second in the long run. A TCP connect is a packet. `packets_booked` are what most attempts
    send until there is a pipe: of a crowd each waits for so much, rather than fail half-way."""

    packets_per_s: float
    packets_burst: int
    packets_booked: int = 8

    def __post_init__(self) -> None:
        if self.packets_per_s <= 0 or self.packets_burst < 1:
            raise ValueError("an allowance is a packet at least, and grows")

    def of_a_target(self) -> "Allowance":
        """What the attempts with all peers may send together to one address."""
        return replace(
            self,
            packets_per_s=_PEERS_AT_A_TARGET * self.packets_per_s,
            packets_burst=_PEERS_AT_A_TARGET * self.packets_burst,
        )


USUAL_ALLOWANCE = Allowance(packets_per_s=200, packets_burst=400)
"""A punch sends a few packets a second, and dozens may be under way."""

DIALLING_ALLOWANCE = Allowance(packets_per_s=128, packets_burst=256, packets_booked=2)
"""A peer has a handful of addresses and ports; who connects to more is a scanner."""


_ROUNDING = 1e-6  # of a packet: who has waited as long as it takes may still lack so much


class Budget:
    """What is left of an allowance: a token bucket."""

    def __init__(self, allowance: Allowance) -> None:
        self._rate_per_s = allowance.packets_per_s
        self.burst = allowance.packets_burst
        self.booked = min(allowance.packets_booked, allowance.packets_burst)
        self._tokens = float(self.burst)
        self._filled_at_s: float | None = None

    def spend(self, now_s: float) -> bool:
        """Take one packet's worth; False where there is none left."""
        self._fill(now_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def book(self, now_s: float) -> float:
        """Take what most attempts send, no more than fits; else the time in seconds until there is as much."""
        self._fill(now_s)
        if (lacking := self.booked - self._tokens) > _ROUNDING:
            return lacking / self._rate_per_s
        self._tokens -= self.booked
        return 0.0

    def give_back(self, packets: int) -> None:
        """So many of those that were booked were not sent."""
        self._tokens = min(float(self.burst), self._tokens + packets)

    def full(self, now_s: float) -> bool:
        """Whether nothing is missing: a new one is as good."""
        self._fill(now_s)
        return self._tokens >= self.burst

    def _fill(self, now_s: float) -> None:
        if self._filled_at_s is not None:
            earned = (now_s - self._filled_at_s) * self._rate_per_s
            self._tokens = min(float(self.burst), self._tokens + earned)
        self._filled_at_s = now_s
