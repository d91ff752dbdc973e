"""Coalesces what is said in one turn of the event loop, while a call is under way or has just been, or while it has
time, into one call: in order, one call under way at a time. A call of its own for each would cost both processes more
than its content."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# A call costs both processes about as much as it takes. So long it rests after one, in times of that, that calls are a
# third of what a crowd costs at most; and no longer than a person could notice.
_REST_FACTOR = 2
_REST_MAX_S = 0.01

_log = logging.getLogger(__name__)


class Outbox(Generic[T, R]):
    """Items put here arrive at `deliver` in batches. An error of `deliver` ends in the log, and with those who wait for
    its answer: whoever watches the receiver acts on its death."""

    def __init__(self, deliver: Callable[[list[T]], Awaitable[R]]) -> None:
        self._deliver = deliver
        self._items: list[T] = []
        self._answer: asyncio.Future[R] | None = None  # to the items that wait, where somebody waits for it
        self._flush: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._rested_at_s = 0.0
        self._taken = self._delivered = 0  # items, since the beginning

    def put(self, item: T, *, within_s: float = 0.0) -> None:
        """Send an item soon; one that has time waits so long at most for others that are sent."""
        self._items.append(item)
        loop = asyncio.get_running_loop()
        if not within_s:
            self._send()
        elif self._later is None or loop.time() + within_s < self._later.when():
            if self._later:
                self._later.cancel()
            self._later = loop.call_later(within_s, self._send)

    async def ask(self, *items: T) -> R:
        """Send them soon, with what else is there by then; the answer to all of it. Raises what `deliver` raises."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        answer = self._answer
        for item in items:
            self.put(item)
        return await asyncio.shield(answer)

    async def drain(self) -> None:
        """Return once everything put so far has been delivered."""
        last = self._taken + len(self._items)
        while self._delivered < last:
            self._rested_at_s = 0.0
            self._send()
            if self._flush:
                await asyncio.shield(self._flush)

    def _send(self) -> None:
        if self._later:
            self._later.cancel()
            self._later = None
        if self._flush or not self._items:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._rested_at_s:
            self._later = loop.call_at(self._rested_at_s, self._send)
        else:
            self._flush = loop.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        batch, self._items = self._items, []
        self._taken += len(batch)
        answer, self._answer = self._answer, None
        began_s = loop.time()
        try:
            result = await self._deliver(batch)
        except Exception as error:  # noqa: BLE001 - the receiver is another process: anything may be raised
            _log.warning("a batch of %d was not delivered: %s", len(batch), type(error).__name__)
            _fail(answer, error)
        except asyncio.CancelledError:
            _fail(answer, RuntimeError("the call was cancelled"))
            raise
        else:
            if answer:
                answer.set_result(result)
        finally:
            now_s = loop.time()
            self._rested_at_s = now_s + min(_REST_FACTOR * (now_s - began_s), _REST_MAX_S)
            self._delivered = self._taken
            self._flush = None
        self._send()


def _fail(answer: asyncio.Future[Any] | None, error: Exception) -> None:
    if answer:
        answer.set_exception(error)
        answer.exception()  # whoever asked may have left
