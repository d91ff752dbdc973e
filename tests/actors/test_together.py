"""Several things at once, and how one that fails ends them all."""

import asyncio

import pytest

from warpfleet.actors.together import together


async def say(word: str) -> str:
    await asyncio.sleep(0)
    return word


async def test_the_results_are_in_the_order_of_the_works() -> None:
    assert await together(say("one"), say("two")) == ["one", "two"]


async def test_the_first_error_is_raised_as_it_is_once_the_others_have_ended() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fail() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await together(wait(), fail())
    assert ended.is_set()


async def test_cancelling_it_cancels_the_works() -> None:
    both = asyncio.create_task(together(asyncio.sleep(60), asyncio.sleep(60)))
    await asyncio.sleep(0)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
