"""Coalesces what is said in one turn of the event loop into one call, in order, one call under way at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Outbox(Generic[T]):
    """Items put here arrive at `deliver` in batches. An error of `deliver` ends in the log: whoever watches the
    receiver acts on its death."""

    def __init__(self, deliver: Callable[[list[T]], Awaitable[None]]) -> None:
        self._deliver = deliver
        self._items: list[T] = []
        self._flush: asyncio.Task[None] | None = None

    def put(self, item: T) -> None:
        """Send an item soon."""
        self._items.append(item)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().create_task(self._run())

    async def drain(self) -> None:
        """Return once everything put so far has been delivered."""
        while self._flush is not None:
            await asyncio.shield(self._flush)

    async def _run(self) -> None:
        try:
            while self._items:
                batch, self._items = self._items, []
                try:
                    await self._deliver(batch)
                except Exception as error:  # noqa: BLE001 - the receiver is another process: anything may be raised
                    _log.warning("a batch of %d was not delivered: %s", len(batch), type(error).__name__)
        finally:
            self._flush = None
