"""Which endpoints of a UDP socket the peer should try. Pure."""

from collections.abc import Sequence

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint, Interface, Scope, scope_of


def candidates(
    route: RouteType, local_port: int, interfaces: Sequence[Interface], reflexive: Endpoint | None, af: int
) -> list[Endpoint]:
    """The host candidates for `nic`, the server-reflexive one for `ext` (RFC 8445 section 5.1.1)."""
    if route is RouteType.EXT:
        return [reflexive] if reflexive else []
    usable = (Scope.GLOBAL, Scope.PRIVATE)
    hosts = [Endpoint(i.ip, local_port) for i in interfaces if scope_of(i.ip) in usable]
    return [endpoint for endpoint in hosts if endpoint.af == af]
