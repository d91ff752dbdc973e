"""A stream on which both ends have agreed, in the hands of a process that makes the pipe of it."""

from collections.abc import Callable
from dataclasses import dataclass

from warpfleet.net.interfaces import PipePath


@dataclass(frozen=True, slots=True, eq=False)
class HandedOver:
    """That process has the pipe ready, and waits for what `decide` tells it: whether it may use it."""

    path: PipePath
    decide: Callable[[bool], None]

    def keep(self) -> None:
        """It may."""
        self.decide(True)

    async def close(self) -> None:
        """Another pipe has won: it closes this one."""
        self.decide(False)
