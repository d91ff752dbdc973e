"""Tasks of one attempt that race for a pipe, and how those end that have lost."""

import asyncio
from collections.abc import Iterable
from typing import Any

from warpfleet.plugins.attempt_context import Won
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.inbox import InboundStream


async def end_racers(tasks: Iterable[asyncio.Task[Any]], *, keep: Won | None = None) -> None:
    """Cancel and await them; a pipe or a stream that one had reached all the same is closed."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for reached in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(reached, InboundStream):
            reached.discard()
        elif reached not in (None, keep) and not isinstance(reached, BaseException | AttemptMessage):
            await reached.close()
