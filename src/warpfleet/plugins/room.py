"""Room for sockets, where attempts need hundreds of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Eight attempts at once that open 512 sockets each; the others wait a second for their turn. Each socket is a mapping
# in a NAT, of which small ones keep some thousands.
MAX_SOCKETS = 4096
_OF_A_PEER_MAX = 2  # attempts with one peer, so that it leaves room for others


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
        Whoever wants more than there is at all gets it alone. Of the attempts with one peer all but a few wait apart.
        """
        async with self._left:
            await self._left.wait_for(lambda: self._of_peer[peer] < _OF_A_PEER_MAX)
            self._of_peer[peer] += 1
        try:
            async with self._taken_by(sockets):
                yield
        finally:
            self._of_peer -= Counter([peer])
            async with self._left:
                self._left.notify_all()

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
