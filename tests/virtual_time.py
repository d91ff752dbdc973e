"""Tests on virtual time."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from warpfleet.lab.sim.virtual_time import START_S, VirtualTimeLoop


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on virtual time; what it raises, and what its tasks leave unretrieved, fails it."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        complaints: list[str] = []
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
            runner.run(test(*arguments, **fixtures))
        assert not complaints

    del run.__wrapped__  # pytest-asyncio and hypothesis are to see a plain function
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def now_s() -> float:
    """Seconds since the test began."""
    return asyncio.get_running_loop().time() - START_S
