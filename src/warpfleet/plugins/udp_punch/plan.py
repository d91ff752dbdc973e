"""Which endpoints of a side's UDP sockets the peer should try. Pure."""

from collections.abc import Sequence

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint, Interface, Scope, scope_of

CANDIDATES_MAX = 8  # a socket has a few addresses; more would make the peer a port scanner
# Sockets of a sequential NAT's side. Between STUN and the first frame, two signals and two round trips later, other
# hosts behind the NAT and other attempts of our own open mappings: a handful, seldom more than a dozen.
RUN_SOCKETS = 16
_FIRST_PORT = 1024  # RFC 4787 section 4.2.1: allocators stay out of the well-known ports
_PORTS = 65_536 - _FIRST_PORT


def candidates(
    route: RouteType, local_port: int, interfaces: Sequence[Interface], reflexive: Endpoint | None, af: int
) -> list[Endpoint]:
    """The host candidates for `nic`, the server-reflexive one for `ext` (RFC 8445 section 5.1.1)."""
    if route is RouteType.EXT:
        return [reflexive] if reflexive else []
    usable = (Scope.GLOBAL, Scope.PRIVATE)
    hosts = [Endpoint(i.ip, local_port) for i in interfaces if scope_of(i.ip) in usable]
    return [endpoint for endpoint in hosts if endpoint.af == af]


def predicted(latest: Endpoint, delta: int) -> list[Endpoint]:
    """Where a run of RUN_SOCKETS mappings will be met that is opened some time after the mapping `latest`; RFC 5128
    section 3.5. `delta` is the allocator's step, in ports.

    Every RUN_SOCKETS-th port ahead: however many mappings others open before the run, as long as they are fewer than
    RUN_SOCKETS x CANDIDATES_MAX, it covers exactly one of these.
    """
    steps = range(RUN_SOCKETS, RUN_SOCKETS * CANDIDATES_MAX + 1, RUN_SOCKETS)
    return [latest._replace(port=port_ahead(latest.port, step * delta)) for step in steps]


def port_ahead(port: int, distance: int) -> int:
    """The port so far ahead (or behind, where negative); after the last port comes the first that is not well known."""
    return _FIRST_PORT + (port - _FIRST_PORT + distance) % _PORTS
