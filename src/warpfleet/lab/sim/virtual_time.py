"""An event loop whose clock jumps to the next timer as soon as nothing else is left to do."""

import asyncio
import selectors

START_S = 1000.0  # not 0, which code could mistake for "not yet"
# Code takes time, too: without any, a deadline that rounding has put a fraction of a nanosecond ahead never comes.
_CREEP_TURNS, _CREEP_S = 256, 1e-6


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time that it was asked to wait for passes at once."""

    now_s = START_S
    _turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("deadlock: nothing runs, and no timer will ever fire")
        if not ready and timeout:
            self.now_s += timeout
            self._turns = 0
        else:
            self._turns += 1
            if self._turns % _CREEP_TURNS == 0:
                self.now_s += _CREEP_S
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop on virtual time, which begins at `START_S`."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s
