"""Which endpoints of a side's UDP sockets the peer should try. Pure.

Behind a NAT that gives a mapping for each destination, in steps of `delta` ports, the port that the peer has to send to
can only be predicted (RFC 5128 section 3.5): from that of a mapping towards a STUN server, the `latest` one.
"""

from collections.abc import Iterable, Sequence

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint, Interface, Scope, scope_of

CANDIDATES_MAX = 8  # a socket has a few addresses; more would make the peer a port scanner
# Between STUN and the first frame, two signals and a round trip later, other hosts behind the NAT and other attempts of
# ours open mappings: a handful, seldom more than a dozen.
RUN_SOCKETS = 16
HIDDEN_PORT = 9  # of a peer whose port nobody knows: the discard service's (RFC 863), where nobody answers
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


def ahead(latest: Endpoint, delta: int) -> list[Endpoint]:
    """Where a run of RUN_SOCKETS mappings will be met that is opened some time after the latest one.

    Every RUN_SOCKETS-th port: however many mappings others open before the run, as long as they are fewer than
    RUN_SOCKETS x CANDIDATES_MAX, it covers exactly one of these.
    """
    return _stepped(latest, delta, (RUN_SOCKETS * number for number in range(1, CANDIDATES_MAX + 1)))


def behind(latest: Endpoint, delta: int) -> list[Endpoint]:
    """Where a mapping is that was opened right before the latest one, the likeliest first: others may have opened some
    in between."""
    return _stepped(latest, delta, range(-1, -CANDIDATES_MAX - 1, -1))


def _stepped(latest: Endpoint, delta: int, steps: Iterable[int]) -> list[Endpoint]:
    """After the last port comes the first that is not well known."""
    ports = (_FIRST_PORT + (latest.port - _FIRST_PORT + step * delta) % _PORTS for step in steps)
    return [latest._replace(port=port) for port in ports]
