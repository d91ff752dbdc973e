"""Racing: who wins, when the next one starts, and what becomes of the rest."""

import asyncio

import pytest

from warpfleet.net.racing import race


async def after(delay_s: float, result: str) -> str:
    await asyncio.sleep(delay_s)
    return result


async def fail(error: Exception) -> str:
    raise error


async def test_the_first_to_succeed_wins() -> None:
    ways = [lambda: after(10, "slow"), lambda: after(0, "quick")]
    assert await race(ways, stagger_s=0, timeout_s=5) == "quick"


async def test_a_way_that_is_not_needed_is_not_started() -> None:
    started = []

    async def second() -> str:
        started.append("second")
        return "second"

    assert await race([lambda: after(0, "first"), second], stagger_s=5, timeout_s=5) == "first"
    assert started == []


async def test_a_failure_starts_the_next_at_once() -> None:
    ways = [lambda: fail(OSError("no")), lambda: after(0, "second")]
    assert await race(ways, stagger_s=60, timeout_s=5) == "second"


async def test_what_the_losers_reached_is_discarded() -> None:
    discarded: list[str] = []

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "reached all the same"
        return "never"

    async def discard(result: str) -> None:
        discarded.append(result)

    ways = [stubborn, lambda: after(0.01, "winner")]
    assert await race(ways, stagger_s=0, timeout_s=5, discard=discard) == "winner"
    assert discarded == ["reached all the same"]


async def test_the_error_that_says_most_is_raised() -> None:
    ways = [lambda: fail(ValueError("told")), lambda: fail(TimeoutError("silence"))]
    with pytest.raises(ValueError, match="told"):
        await race(ways, stagger_s=0, timeout_s=5)


async def test_the_whole_race_has_a_deadline() -> None:
    with pytest.raises(TimeoutError):
        await race([lambda: after(60, "late")], stagger_s=0, timeout_s=0.01)


async def test_a_cancellation_after_the_win_discards_the_winner_too() -> None:
    """At whichever step of the loop it comes, what was reached is either returned or discarded."""
    for steps in range(12):
        reached: list[str] = []
        discarded: list[str] = []

        async def win(reached: list[str] = reached) -> str:
            reached.append("socket")
            return "socket"

        async def discard(result: str, discarded: list[str] = discarded) -> None:
            discarded.append(result)

        racing = asyncio.create_task(race([win], stagger_s=0, timeout_s=5, discard=discard))
        for _ in range(steps):
            await asyncio.sleep(0)
        racing.cancel()
        result = (await asyncio.gather(racing, return_exceptions=True))[0]
        kept = [] if isinstance(result, BaseException) else [result]
        assert kept or not reached or discarded
