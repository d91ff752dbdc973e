"""What the attempts of one plugin may send, by peer and by target address."""

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from warpfleet.core.identity import PublicIdentity
from warpfleet.core.targets import Allowance, Budget
from warpfleet.plugins.guard import SharedBudget

_KEPT_MAX = 4096  # that are remembered; those of long ago have filled up again

Key = TypeVar("Key")
Kept = TypeVar("Kept", bound=Budget)


class _Recent(Generic[Key, Kept]):
    """The budgets that were used last; the others are full."""

    def __init__(self, make: Callable[[], Kept]) -> None:
        self._make = make
        self._kept: dict[Key, Kept] = {}  # the one used last at the end

    def get(self, key: Key) -> Kept:
        budget = self._kept.pop(key, None) or self._make()
        self._kept[key] = budget
        while len(self._kept) > _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        return budget


class Budgets:
    """No peer has a node flood others by many attempts, nor do several that name one victim."""

    def __init__(self, allowance: Allowance) -> None:
        self._by_peer = _Recent[tuple[str, bytes], SharedBudget](partial(SharedBudget, allowance))
        self._by_target = _Recent[tuple[str, str], Budget](partial(Budget, allowance.of_a_target()))

    def with_peer(self, node: str, peer: PublicIdentity) -> SharedBudget:
        """What a node's attempts with a peer may still send."""
        return self._by_peer.get((node, peer.key))

    def towards(self, node: str, ip: str) -> Budget:
        """What a node's attempts with all its peers may still send to an address."""
        return self._by_target.get((node, ip))
