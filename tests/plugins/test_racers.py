"""Tasks that have lost: nothing that they had reached stays open, and what won does."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from fake_network import Internet
from fake_node import ALICE, BOB, contexts, node
from virtual_time import virtual_time
from warpfleet.core.combo import Combo, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.plugins import streams
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.racers import end_racers


@dataclass(eq=False)
class Pipe:
    closed: bool = False

    async def close(self) -> None:
        self.closed = True


async def reach(what: Any) -> Any:
    if isinstance(what, Exception):
        raise what
    return what


@virtual_time
async def test_what_was_reached_all_the_same_is_closed_but_for_what_is_kept() -> None:
    near, far = Internet().stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2))
    lost, won = Pipe(), Pipe()
    reached = (lost, won, None, OSError("gone"), InboundStream(near, b""))
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(reach(what)) for what in reached]
    await asyncio.wait(tasks)
    waits = asyncio.create_task(asyncio.sleep(3600))
    await end_racers([*tasks, waits], keep=won)  # type: ignore[arg-type]
    assert (lost.closed, won.closed, near.closed, waits.cancelled()) == (True, False, True, True)
    far.close()


@virtual_time
async def test_a_second_stream_that_has_won_as_the_attempt_is_cancelled_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is dialled when the first takes long, and both a task and the attempt may end in one turn of the loop."""
    internet = Internet()
    a, _ = contexts(node(ALICE, internet, "203.0.113.1"), node(BOB, internet, "203.0.113.2"), COMBO)
    pipe, dials = Pipe(), iter((3600.0, 0.1))

    async def connect(*_: object, **__: object) -> Any:
        await asyncio.sleep(next(dials))
        return internet.stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2))[0]

    async def prove(*_: object, **__: object) -> Any:
        dialling.cancel()
        return pipe

    monkeypatch.setattr(type(a.network), "connect_tcp", connect)
    monkeypatch.setattr(type(a), "prove_stream", prove)
    dialling = asyncio.create_task(streams.dial(a, [Endpoint("203.0.113.2", 443)]))
    with pytest.raises(asyncio.CancelledError):
        await dialling
    assert pipe.closed


COMBO = Combo("direct_connect", 4, RouteType.EXT)
