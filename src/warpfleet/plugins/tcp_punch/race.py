"""Ways to a pipe that are tried at once, more being added meanwhile. The first to reach one wins."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from warpfleet.plugins.attempt_context import Won
from warpfleet.plugins.racers import end_racers

Racer = asyncio.Task[Won | None]


class Race:
    """Runs racers, which return a pipe or, where they come to nothing, None; and helpers beside them."""

    def __init__(self) -> None:
        self._racers: set[Racer] = set()
        self._ended: asyncio.Queue[Racer] = asyncio.Queue()

    def add(self, way: Coroutine[Any, Any, Won | None]) -> Racer:
        """Start a way to a pipe, or a helper, which reaches none. What it raises ends the race, its cancellation
        does not."""
        racer = asyncio.create_task(way)
        self._racers.add(racer)
        racer.add_done_callback(self._ended.put_nowait)
        return racer

    async def first(self) -> Won:
        """The first pipe. Everything else is cancelled and awaited, and what it reached all the same is closed."""
        try:
            pipe = await self._first()
            await end_racers(self._racers, keep=pipe)
        except BaseException:  # a cancellation, too, finds what was reached until now
            await end_racers(self._racers)
            raise
        return pipe

    async def _first(self) -> Won:
        while True:
            ended = await self._ended.get()
            if not ended.cancelled() and (pipe := ended.result()):
                return pipe
            self._racers.discard(ended)
