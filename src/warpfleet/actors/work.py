"""Tasks that somebody owns: all of them end with their owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Work:
    """Tasks that run until they are done, or cancelled together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something, and forget it when it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self, after_s: float = 0) -> None:
        """End what runs, once it had so long to end by itself."""
        if after_s and self._tasks:
            await asyncio.wait(self._tasks, timeout=after_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
