"""Several ways to one end, started one after another: the first that succeeds wins."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def _keep(_: object) -> None:
    """What lost needs no undoing."""


async def race(
    ways: Sequence[Callable[[], Coroutine[Any, Any, T]]],
    *,
    stagger_s: float,
    timeout_s: float,
    discard: Callable[[T], Awaitable[None]] = _keep,
) -> T:
    """The result of the first way to succeed.

    Each starts `stagger_s` after the one before it, or as soon as one has failed. The others are cancelled and awaited;
    what one of them had reached all the same goes to `discard`, perhaps twice. Where all fail, the last error that is
    more than a timeout is raised, or else the last timeout; TimeoutError where `timeout_s` passes.
    """
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.timeout(timeout_s):
            winner = await _first(ways, tasks, stagger_s)
        await _end([task for task in tasks if task is not winner], discard)
    except BaseException:  # a cancellation, too, finds what was reached until now
        await _end(tasks, discard)
        raise
    return winner.result()


async def _end(tasks: Sequence[asyncio.Task[T]], discard: Callable[[T], Awaitable[None]]) -> None:
    """Cancel and await the tasks; what they had reached is discarded."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            await discard(task.result())


async def _first(
    ways: Sequence[Callable[[], Coroutine[Any, Any, T]]], tasks: list[asyncio.Task[T]], stagger_s: float
) -> asyncio.Task[T]:
    """Start the ways into `tasks`, and return the first task that succeeds."""
    failure: BaseException = TimeoutError("nothing to try")
    waiting = list(ways)
    pending: set[asyncio.Task[T]] = set()
    while waiting or pending:
        if waiting:
            tasks.append(asyncio.create_task(waiting.pop(0)()))
            pending.add(tasks[-1])
        done, pending = await asyncio.wait(
            pending, timeout=stagger_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            error = task.exception()
            if error is None:
                return task
            if isinstance(failure, TimeoutError) or not isinstance(error, TimeoutError):
                failure = error
    raise failure
