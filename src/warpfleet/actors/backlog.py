"""Pipes that peers have opened to a node, waiting for the program to take them."""

import asyncio
from collections import deque
from typing import Self

from warpfleet.net.interfaces import Pipe

_PIPES_MAX = 128  # as with listen(2): more are turned away


class Backlog:
    """The pipes, first come first taken: an asynchronous iterator that ends once it is closed. Several tasks may take
    from it; each pipe goes to one of them."""

    def __init__(self) -> None:
        self._pipes: deque[Pipe] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, pipe: Pipe) -> bool:
        """Let it wait; False where there is no room."""
        if self._closed or len(self._pipes) >= _PIPES_MAX:
            return False
        self._pipes.append(pipe)
        self._changed.set()
        return True

    def close(self) -> list[Pipe]:
        """End the iteration; the pipes that still waited, which nobody takes any more."""
        self._closed = True
        self._changed.set()
        untaken = list(self._pipes)
        self._pipes.clear()
        return untaken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Pipe:
        while not self._closed:
            if self._pipes:
                return self._pipes.popleft()
            self._changed.clear()
            await self._changed.wait()
        raise StopAsyncIteration
