"""Pipes that wait for the program to take them."""

import asyncio

import pytest

from warpfleet.actors import backlog
from warpfleet.actors.backlog import Backlog
from warpfleet.net.interfaces import Pipe


def pipes(count: int) -> list[Pipe]:
    """Whatever they are, they are only passed on."""
    return [object() for _ in range(count)]  # type: ignore[misc]


async def test_pipes_are_taken_in_their_order_and_the_iteration_ends_with_the_close() -> None:
    waiting, [one, two] = Backlog(), pipes(2)

    async def collect() -> list[Pipe]:
        return [pipe async for pipe in waiting]

    collecting = asyncio.create_task(collect())
    await asyncio.sleep(0)
    assert waiting.put(one)
    await asyncio.sleep(0)
    assert waiting.put(two)
    await asyncio.sleep(0)
    waiting.close()
    assert await collecting == [one, two]
    assert not waiting.put(one)


async def test_taking_one_leaves_the_others_and_giving_up_loses_none() -> None:
    waiting, [one, two] = Backlog(), pipes(2)
    impatient = asyncio.create_task(anext(waiting))
    await asyncio.sleep(0)
    assert waiting.put(one)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert await anext(waiting) is one
    assert waiting.put(two)
    assert await anext(waiting) is two


async def test_each_pipe_goes_to_one_of_several_takers() -> None:
    waiting, both = Backlog(), pipes(2)
    takers = [asyncio.create_task(anext(waiting)) for _ in both]
    await asyncio.sleep(0)
    for pipe in both:
        assert waiting.put(pipe)
    assert [await taker for taker in takers] == both


async def test_what_nobody_took_is_not_taken_after_the_close() -> None:
    waiting = Backlog()
    assert waiting.put(pipes(1)[0])
    waiting.close()
    with pytest.raises(StopAsyncIteration):
        await anext(waiting)


async def test_more_than_fit_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_PIPES_MAX", 2)
    waiting = Backlog()
    assert [waiting.put(pipe) for pipe in pipes(3)] == [True, True, False]
