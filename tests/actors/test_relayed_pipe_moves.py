"""Relayed pipes in a plugin host, and the direct paths that they move to."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from plugin_bench import NAME, ORDER, Bench, Fake, forever

from fake_network import FakeUdp
from fake_node import ATTEMPT_ID, CONNECTION_ID
from sealed import quic_pipes
from virtual_time import virtual_time
from warpfleet.actors.echo import echo
from warpfleet.actors.plugin_host import PluginHost
from warpfleet.actors.values import CancelAttempt, NameWinner, Stage, Use
from warpfleet.core.combo import Reason, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import Pipe
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.plugins.attempt_context import AttemptContext

pytestmark = pytest.mark.usefixtures("fake_plugin")


class Relayed:
    """A relayed pipe from Alice's host to Bob, and a direct path for it."""

    def __init__(self, use: Use) -> None:
        self.bench = Bench()
        self.order = replace(ORDER, use=use)
        self.far: QuicPipe | None = None
        Fake.body = self.make  # type: ignore[assignment]

    async def make(self, context: AttemptContext) -> Pipe:
        await context.claim()
        internet = self.bench.internet
        near, self.far = await quic_pipes(FakeUdp(internet, NEAR), FakeUdp(internet, FAR), relayed=True)
        return near

    async def begin(self) -> PluginHost:
        host = await self.bench.open()
        await host.command([self.order, NameWinner("alice", ATTEMPT_ID)])
        return host

    def path(self, *, peer: str = "bob", side: Side = Side.INITIATOR) -> ProvedPath:
        way = DatagramPath(FakeUdp(self.bench.internet, DIRECT), FAR_DIRECT)
        return ProvedPath(NAME, CONNECTION_ID, peer, side, way)

    def stages(self) -> list[Stage]:
        return [report.stage for report in self.bench.reports if report.stage is not Stage.READY]


NEAR, FAR = Endpoint("198.51.100.9", 1), Endpoint("198.51.100.9", 2)
DIRECT, FAR_DIRECT = Endpoint("203.0.113.1", 7), Endpoint("203.0.113.2", 8)


@virtual_time
async def test_a_held_pipe_moves_to_the_path_that_comes_for_it_and_its_end_is_told() -> None:
    relayed = Relayed(Use.HOLD)
    host = await relayed.begin()
    await asyncio.sleep(1)
    [(_, _, pipe)] = relayed.bench.held
    host.adopt("alice", relayed.path())
    assert not pipe.path.relayed
    second = relayed.path()
    host.adopt("alice", second)
    assert second.way.socket.closed, "one is enough"  # type: ignore[attr-defined]
    await pipe.close()
    await asyncio.sleep(1)
    assert relayed.stages() == [Stage.WON, Stage.MOVED, Stage.ENDED]
    late = relayed.path()
    host.adopt("alice", late)
    assert late.way.socket.closed  # type: ignore[attr-defined]
    await host.close()


@virtual_time
@pytest.mark.parametrize("whose", [{"peer": "mallory"}, {"side": Side.RESPONDER}])
async def test_a_path_for_another_pipe_is_closed(whose: dict[str, Any]) -> None:
    relayed = Relayed(Use.HOLD)
    host = await relayed.begin()
    await asyncio.sleep(1)
    path = relayed.path(**whose)
    host.adopt("alice", path)
    assert path.way.socket.closed  # type: ignore[attr-defined]
    assert relayed.bench.held[0][2].path.relayed
    await host.close()


@virtual_time
async def test_a_path_that_overtakes_the_tunnel_waits_for_the_pipe() -> None:
    relayed = Relayed(Use.HOLD)
    host = await relayed.begin()
    await asyncio.sleep(0)
    assert relayed.bench.held == []
    host.adopt("alice", relayed.path())
    await asyncio.sleep(1)
    assert not relayed.bench.held[0][2].path.relayed
    await host.close()


@virtual_time
async def test_a_path_whose_pipe_never_comes_is_closed() -> None:
    relayed = Relayed(Use.HOLD)
    Fake.body = forever  # type: ignore[assignment]
    host = await relayed.begin()
    path = relayed.path()
    host.adopt("alice", path)
    await host.command([CancelAttempt("alice", ATTEMPT_ID, Reason.STOPPED)])
    await asyncio.sleep(1)
    assert path.way.socket.closed  # type: ignore[attr-defined]
    await host.close()


@virtual_time
async def test_a_kept_pipe_is_measured_on_either_path_and_closed_when_it_is_cancelled() -> None:
    relayed = Relayed(Use.KEEP)
    host = await relayed.begin()
    await asyncio.sleep(0.2)
    assert relayed.far is not None
    echoing = asyncio.create_task(echo(relayed.far))
    await asyncio.sleep(2)
    assert relayed.stages() == [Stage.WON, Stage.MEASURED]
    far = DatagramPath(FakeUdp(relayed.bench.internet, FAR_DIRECT), DIRECT)
    relayed.far.move(far)
    host.adopt("alice", relayed.path())
    await asyncio.sleep(2)
    assert relayed.stages() == [Stage.WON, Stage.MEASURED, Stage.MOVED, Stage.MEASURED]
    assert far.socket.packets_sent
    await host.command([CancelAttempt("alice", ATTEMPT_ID, Reason.NOT_NEEDED)])
    await echoing
    await asyncio.sleep(1)
    assert relayed.bench.internet.open_sockets() == []
    await host.close()


@virtual_time
async def test_the_path_of_another_plugins_pipe_is_handed_to_its_host() -> None:
    relayed = Relayed(Use.HOLD)

    async def win_path(context: AttemptContext) -> ProvedPath:
        moves = await context.claim()
        return replace(relayed.path(), plugin=moves or "")

    Fake.body = win_path  # type: ignore[assignment]
    host = await relayed.bench.open()
    await host.command([relayed.order, NameWinner("alice", ATTEMPT_ID, moves="turn")])
    await asyncio.sleep(1)
    assert relayed.bench.handed == [("turn", "alice")]
    await host.close()
