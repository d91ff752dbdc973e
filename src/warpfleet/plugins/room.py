"""Room for sockets, where attempts need hundreds of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Eight attempts at once that open 512 sockets each; the others wait a second for their turn. Each socket is a mapping
# in a NAT, of which small ones keep some thousands.
MAX_SOCKETS = 4096


class Room:
    """How many sockets all attempts of one plugin host may have open at once, beside the few that each needs anyway."""

    def __init__(self, sockets: int = MAX_SOCKETS) -> None:
        self._sockets = sockets
        self._taken = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._of_peer: Counter[str] = Counter()
        self._left = asyncio.Condition()

    @asynccontextmanager
    async def take(self, sockets: int, peer: str) -> AsyncIterator[None]:
        """Wait for room for so many, first come, first served, and give it back in the end. The caller bounds the time.
        Whoever wants more than there is at all gets it alone. What is with one peer beyond half the room waits apart.
        """
        async with self._left:
            await self._left.wait_for(lambda: self._is_modest(peer, sockets))
            self._of_peer[peer] += sockets
        try:
            async with self._taken_by(sockets):
                yield
        finally:
            self._of_peer -= Counter({peer: sockets})
            async with self._left:
                self._left.notify_all()

    def _is_modest(self, peer: str, sockets: int) -> bool:
        """Whether one peer leaves half the room to others, or has none of it yet."""
        return not self._of_peer[peer] or self._of_peer[peer] + sockets <= self._sockets // 2

    @asynccontextmanager
    async def _taken_by(self, sockets: int) -> AsyncIterator[None]:
        async with self._turn:
            while self._taken and self._taken + sockets > self._sockets:
                self._freed.clear()
                await self._freed.wait()
            self._taken += sockets
        try:
            yield
        finally:
            self._taken -= sockets
            self._freed.set()
