"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do."""

import asyncio
import functools
import inspect
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

START_S = 1000.0  # not 0, which code could mistake for "not yet"


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time that it was asked to wait for passes at once."""

    now_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("deadlock: nothing runs, and no timer will ever fire")
        if not ready and timeout is not None:
            self.now_s += max(timeout, 0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop on virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


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
