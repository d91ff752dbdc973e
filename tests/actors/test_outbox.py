"""Batches in order, one at a time, whatever the receiver does."""

import asyncio

import pytest

from virtual_time import now_s, virtual_time
from warpfleet.actors.outbox import Outbox


@virtual_time
async def test_what_is_put_in_one_turn_arrives_as_one_batch() -> None:
    batches: list[list[int]] = []

    async def deliver(batch: list[int]) -> None:
        batches.append(batch)
        await asyncio.sleep(1)

    outbox = Outbox(deliver)
    for item in (1, 2, 3):
        outbox.put(item)
    await asyncio.sleep(0.5)
    outbox.put(4)
    outbox.put(5)
    await outbox.drain()
    assert batches == [[1, 2, 3], [4, 5]]
    assert now_s() == 2
    await outbox.drain()


@virtual_time
@pytest.mark.parametrize(("call_s", "rest_s"), [(0.002, 0.004), (1.0, 0.01)])
async def test_what_comes_right_after_a_call_rests_and_shares_the_next(call_s: float, rest_s: float) -> None:
    batches: list[tuple[float, list[int]]] = []

    async def deliver(batch: list[int]) -> None:
        batches.append((now_s(), batch))
        await asyncio.sleep(call_s)

    outbox = Outbox(deliver)
    for number in (1, 2, 3):
        outbox.put(number)
        await asyncio.sleep(call_s + rest_s / 4 if number == 1 else rest_s / 4)
    await asyncio.sleep(call_s + rest_s)
    assert batches == [(0, [1]), (pytest.approx(call_s + rest_s), [2, 3])]
    outbox.put(4)
    await outbox.drain()
    assert batches[2:] == [(pytest.approx(2 * call_s + rest_s + rest_s / 2 + rest_s / 4), [4])], "at once"


@virtual_time
async def test_what_has_time_goes_with_what_has_none_or_when_its_time_is_up() -> None:
    batches: list[tuple[float, list[int]]] = []

    async def deliver(batch: list[int]) -> None:
        batches.append((now_s(), batch))

    outbox = Outbox(deliver)
    outbox.put(1, within_s=3)
    await asyncio.sleep(1)
    outbox.put(2)
    await asyncio.sleep(1)
    outbox.put(3, within_s=9)
    outbox.put(4, within_s=3)
    await asyncio.sleep(4)
    outbox.put(5, within_s=3)
    await outbox.drain()
    assert batches == [(1, [1, 2]), (5, [3, 4]), (6, [5])]


@virtual_time
async def test_a_failed_batch_is_logged_and_the_next_one_goes_out(caplog: pytest.LogCaptureFixture) -> None:
    arrived: list[int] = []

    async def deliver(batch: list[int]) -> None:
        if 1 in batch:
            raise OSError("gone")
        arrived.extend(batch)

    outbox = Outbox(deliver)
    outbox.put(1)
    await outbox.drain()
    outbox.put(2)
    await outbox.drain()
    assert arrived == [2]
    assert "a batch of 1 was not delivered: OSError" in caplog.text


@virtual_time
async def test_who_asks_has_the_answer_to_the_batch_that_its_items_went_with() -> None:
    async def deliver(batch: list[int]) -> int:
        await asyncio.sleep(1)
        return sum(batch)

    outbox = Outbox(deliver)
    first = asyncio.create_task(outbox.ask(1))
    await asyncio.sleep(0.5)
    others = asyncio.gather(outbox.ask(2, 3), outbox.ask(4))
    assert (await first, now_s()) == (1, 1)
    assert (await others, now_s()) == ([9, 9], pytest.approx(2.01)), "after a rest"


@virtual_time
async def test_who_asks_is_told_of_the_error_and_whoever_leaves_takes_nothing_from_the_others() -> None:
    async def deliver(batch: list[int]) -> int:
        await asyncio.sleep(1)
        if 1 in batch:
            raise OSError("gone")
        return sum(batch)

    outbox = Outbox(deliver)
    with pytest.raises(OSError, match="gone"):
        await outbox.ask(1)
    leaver, stayer = (asyncio.create_task(outbox.ask(item)) for item in (2, 3))
    await asyncio.sleep(0.5)
    leaver.cancel()
    assert await stayer == 5


@virtual_time
async def test_a_drain_does_not_wait_for_what_is_put_later() -> None:
    async def deliver(_batch: list[int]) -> None:
        await asyncio.sleep(0.01)

    async def put() -> None:
        while True:
            outbox.put(1)
            await asyncio.sleep(0.005)

    outbox = Outbox(deliver)
    putting = asyncio.create_task(put())
    await asyncio.sleep(1)
    began_s = now_s()
    await outbox.drain()
    assert now_s() - began_s < 0.1
    putting.cancel()


@virtual_time
async def test_who_asks_hears_of_a_call_that_is_cancelled() -> None:
    async def deliver(_batch: list[int]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled"):
        async with asyncio.timeout(1):
            await Outbox(deliver).ask(1)
