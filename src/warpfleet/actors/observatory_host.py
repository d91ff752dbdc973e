"""The role that remembers what the nodes of a fleet, and of fleets before, have learnt about NATs."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.experience import Evidence, Subject, Track
from warpfleet.telemetry.observatory_store import ObservatoryStore


class ObservatoryHost:
    """What is known, fresh as of now; `path` and `clock` are those of ObservatoryStore. What a method has taken is
    written when it returns."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._store = ObservatoryStore(path, clock)
        self._closed = asyncio.Event()

    async def recall(self, exit_: Exit) -> KnownNat | None:
        """What is known of the NATs at an exit."""
        return self._store.nat(exit_)

    async def remember(self, nats: Sequence[KnownNat]) -> None:
        """Keep what was found out about exits."""
        self._store.put_nats(nats)

    async def tracks(self, subjects: Sequence[Subject]) -> dict[Subject, Track]:
        """The tracks of those subjects that have one."""
        return self._store.tracks(subjects)

    async def learn(self, evidence: Sequence[Evidence]) -> None:
        """Keep what attempts have taught."""
        self._store.put_evidence(evidence)

    async def serve(self) -> None:
        """Return when closed; whoever awaits this learns at once when the process dies."""
        await self._closed.wait()

    async def close(self) -> None:
        """Close the file."""
        self._store.close()
        self._closed.set()
