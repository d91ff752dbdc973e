"""The loop whose clock jumps."""

import asyncio

import pytest

from warpfleet.lab.sim.virtual_time import START_S, VirtualTimeLoop


def test_time_passes_only_by_timers_and_exactly() -> None:
    async def wait() -> list[float]:
        loop = asyncio.get_running_loop()
        ends = await asyncio.gather(*(asyncio.sleep(delay_s, delay_s) for delay_s in (3600, 0.5)))
        return [*ends, loop.time() - START_S]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(wait()) == [3600, 0.5, 3600]


def test_a_deadline_that_rounding_has_put_ahead_comes_all_the_same() -> None:
    """Code that asks the clock again and again without ever waiting, as a timer that is a hair too early makes it."""

    async def come_round() -> bool:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 1e-7
        for _ in range(1000):
            if loop.time() >= end_s:
                return True
            await asyncio.sleep(0)
        return False

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(come_round())


def test_a_wait_that_nothing_will_ever_end_is_a_failure() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        with pytest.raises(AssertionError, match="deadlock"):
            runner.run(wait())
        runner.get_loop().call_soon(lambda: None)  # so that the runner can end what is left
