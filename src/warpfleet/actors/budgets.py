"""What the attempts of one plugin may send, by peer and by target address."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from warpfleet.core.identity import PublicIdentity
from warpfleet.core.targets import Allowance, Budget
from warpfleet.plugins.guard import SharedBudget

_KEPT_MAX = 4096  # beyond that, those that have filled up again are forgotten

Key = TypeVar("Key")
Kept = TypeVar("Kept", bound=Budget)


class _Spent(Generic[Key, Kept]):
    """The budgets of which something is missing; the others may be there, too."""

    def __init__(self, make: Callable[[], Kept]) -> None:
        self._make = make
        self._kept: dict[Key, Kept] = {}

    def get(self, key: Key) -> Kept:
        if key not in self._kept:
            if len(self._kept) >= _KEPT_MAX:
                now_s = asyncio.get_running_loop().time()
                self._kept = {known: budget for known, budget in self._kept.items() if not budget.full(now_s)}
            self._kept[key] = self._make()
        return self._kept[key]


class Budgets:
    """No peer has a node flood others by many attempts, nor do several that name one victim."""

    def __init__(self, allowance: Allowance) -> None:
        self._by_peer = _Spent[tuple[str, bytes], SharedBudget](partial(SharedBudget, allowance))
        self._by_target = _Spent[tuple[str, str], Budget](partial(Budget, allowance.of_a_target()))

    def with_peer(self, node: str, peer: PublicIdentity) -> SharedBudget:
        """What a node's attempts with a peer may still send."""
        return self._by_peer.get((node, peer.key))

    def towards(self, node: str, ip: str) -> Budget:
        """What a node's attempts with all its peers may still send to an address."""
        return self._by_target.get((node, ip))
