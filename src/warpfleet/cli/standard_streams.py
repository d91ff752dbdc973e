"""Standard input and output for an event loop, whatever they are: files, terminals, pipes, sockets."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

_READ_BYTES = 65_536  # what a pipe holds (pipe(7))
_INPUT, _OUTPUT = 0, 1


async def read_input() -> bytes:
    """Some bytes of standard input; none at its end. OSError."""
    return await _aside(lambda: os.read(_INPUT, _READ_BYTES))


async def write_output(data: bytes) -> None:
    """Write all of it to standard output. BrokenPipeError where nobody reads that any more; OSError."""
    left = memoryview(data)
    while left:
        left = left[await _aside(partial(os.write, _OUTPUT, left)) :]


async def _aside(call: Callable[[], T]) -> T:
    """The result of a call that may block, perhaps for ever: made in a thread of its own, for which a process that ends
    does not wait as it would for an executor's."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not done.done():
            result()

    def run() -> None:
        result: Callable[[], None]
        try:
            result = partial(done.set_result, call())
        except OSError as error:
            result = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result)

    Thread(target=run, daemon=True, name="standard stream").start()
    return await done
