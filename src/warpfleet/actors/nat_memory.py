"""What the roles see of a fleet's memory of NATs."""

from collections.abc import Sequence
from typing import Protocol

from warpfleet.core.exit import Exit, KnownNat


class NatMemory(Protocol):
    """Remembers what was found out about the NATs at an exit. Either method may raise anything, or never return."""

    async def recall(self, where: Exit, /) -> KnownNat | None:
        """What is known of the NATs at an exit; None where nothing is, or nothing recent enough."""

    async def remember(self, nats: Sequence[KnownNat], /) -> None:
        """Take what was found out by running every test."""
