"""Which addresses an attempt may send to, and how much."""

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Scope, scope_of

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


class Budget:
    """A token bucket: at most `burst` packets at once, and `rate_per_s` packets a second in the long run."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at_s: float | None = None

    def spend(self, now_s: float) -> bool:
        """Take one packet's worth; False where there is none left."""
        if self._filled_at_s is not None:
            earned = (now_s - self._filled_at_s) * self._rate_per_s
            self._tokens = min(float(self._burst), self._tokens + earned)
        self._filled_at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
