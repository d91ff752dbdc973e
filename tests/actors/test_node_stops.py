"""Connections of a node that are cancelled, cut off by a deadline or closed: nothing is lost, nothing stays."""

import asyncio
import time

import pytest
from loopback_nodes import NEEDS_BROKER, Cast, accepted, collected, ended, exchange, opened

from process_sockets import descriptors
from warpfleet.actors import backlog
from warpfleet.actors.base_node import ConnectFailed
from warpfleet.actors.node import Node
from warpfleet.core.combo import Reason
from warpfleet.net.interfaces import ConnectionLost, Pipe

pytestmark = [NEEDS_BROKER, pytest.mark.usefixtures("nothing_is_left")]


async def exchange_at_last(pipe: Pipe, peer: Node) -> None:
    """Bytes go both ways; pipes that came to the peer before have ended."""
    while (other := await accepted(peer)).path.remote != pipe.path.local or other.path.local != pipe.path.remote:
        async with other:
            assert await ended(other)
    await exchange(pipe, other)


async def test_a_cancelled_connect_leaves_nothing_behind(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        connecting = asyncio.create_task(alice.connect("bob"))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


@pytest.mark.parametrize("steps", [1, 3, 10, 30, 60, 100, 150, 200])
async def test_cancelling_connect_at_any_step_loses_no_socket(broker: str, steps: int, cast: Cast) -> None:
    """Each step is one turn of the event loop: from before the walk began until after the pipe was won."""
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        connecting = asyncio.create_task(alice.connect("bob"))
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        [outcome] = await asyncio.gather(connecting, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.close()
        await exchange_at_last(await alice.connect("bob"), bob)


async def test_a_pipe_that_is_won_at_the_deadline_is_either_given_or_closed(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        before = len(descriptors())
        outcomes = []
        for after_ms in range(20):
            connecting = alice.connect("bob", timeout_s=after_ms / 1000)
            outcomes += await asyncio.gather(connecting, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, ConnectFailed)]
        assert {error.reason for error in failed} == {Reason.DEADLINE}
        given = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(failed) + len(given) == len(outcomes)
        for pipe in given:
            await pipe.close()
        await exchange_at_last(await alice.connect("bob"), bob)
        assert len(descriptors()) == before


async def test_closing_during_connect_ends_it(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        connecting = asyncio.create_task(alice.connect("bob"))
        accepting = asyncio.create_task(collected(alice))
        await asyncio.sleep(0)
        began_s = time.monotonic()
        await alice.close()
        with pytest.raises(ConnectFailed) as failed:
            await connecting
        assert failed.value.reason is Reason.STOPPED
        assert await accepting == []
        assert time.monotonic() - began_s < 2
        with pytest.raises(ConnectionLost, match="node alice is closed"):
            await alice.connect("bob")
        await alice.close()


async def test_a_node_closes_its_pipes(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        pipe, other = await alice.connect("bob"), await accepted(bob)
        unaccepted = await alice.connect("bob")
        await bob.close()
        assert await pipe.recv() == b""
        for lost in (unaccepted, other):
            with pytest.raises(ConnectionLost):
                await lost.recv()


async def test_pipes_beyond_the_backlog_are_broken_off(
    broker: str, monkeypatch: pytest.MonkeyPatch, cast: Cast
) -> None:
    monkeypatch.setattr(backlog, "_PIPES_MAX", 1)
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        first, second = await alice.connect("bob"), await alice.connect("bob")
        with pytest.raises(ConnectionLost):
            await second.recv()
        await exchange(first, await accepted(bob))
