"""Programs attached to nodes of a cluster on real Ray, over real NATs."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from warpfleet.actors.base_node import BaseNode, ConnectFailed
from warpfleet.actors.served_pipe import ServedPipe
from warpfleet.cluster.attached_node import AttachedNode
from warpfleet.cluster.control import ClusterClient, ConnectRequest, OpenRequest
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import ConnectionOutcome, Policy, Reason
from warpfleet.core.errors import InputError, MissingError
from warpfleet.core.pairs import Trial
from warpfleet.core.plan import Pin
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.tls import TlsPipe
from warpfleet.telemetry.records import ConnectionRow

pytestmark = [pytest.mark.lab, pytest.mark.ray, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

PROGRAM = Path(__file__).with_name("attached_program.py")
BULK = bytes(range(256)) * 2048
DEADLINE_S = 30.0


@asynccontextmanager
async def attached(cluster: ClusterClient, fleet: Fleet, *names: str) -> AsyncIterator[list[AttachedNode]]:
    async with asyncio.timeout(DEADLINE_S):
        await cluster.ask(OpenRequest(fleet))
        async with AsyncExitStack() as stack:
            opening = (AttachedNode.open(name, fleet=fleet, cluster=cluster) for name in names)
            yield [await stack.enter_async_context(each) for each in opening]


async def pair(near: BaseNode, far: BaseNode, **pins: str) -> tuple[Pipe, Pipe]:
    pipe = await near.connect(far.name, **pins)  # type: ignore[arg-type]
    return pipe, await anext(far.accept())


async def exchange(near: Pipe, far: Pipe) -> None:
    """Bytes and the end, both ways."""
    async with near, far:
        for sender, receiver in ((near, far), (far, near)):
            sending = asyncio.create_task(sender.send(BULK))
            received = b""
            while len(received) < len(BULK):
                received += await receiver.recv()
            await sending
            assert received == BULK
        await near.send_eof()
        assert await far.recv() == b""


async def measured(cluster: ClusterClient, fleet: Fleet, initiator: str, responder: str) -> ConnectionRow:
    """What a connection that is only measured comes to."""
    trial = Trial(initiator, responder, 0)
    row = await cluster.ask(ConnectRequest(fleet=fleet, trial=trial, policy=Policy.STAGGERED, pin=Pin()))
    assert isinstance(row, ConnectionRow)
    return row


async def test_pipes_of_either_kind_reach_the_programs(cluster: ClusterClient, fleet: Fleet) -> None:
    async with attached(cluster, fleet, "full_cone", "public") as (near, far):
        assert (near.name, near.view.name) == ("full_cone", "full_cone")
        for plugin, kind in (("direct_connect", TlsPipe), ("udp_punch", ServedPipe), ("turn", ServedPipe)):
            one, other = await pair(near, far, plugin_name=plugin)
            assert isinstance(one, kind)
            assert isinstance(other, kind)
            assert (one.peer, other.peer) == ("public", "full_cone")
            assert one.path.relayed == (plugin == "turn")
            await exchange(one, other)


async def test_a_relayed_pipe_moves_beneath_the_programs(cluster: ClusterClient, fleet: Fleet) -> None:
    async with attached(cluster, fleet, "full_cone", "port_restricted") as (near, far):
        one, other = await pair(near, far, policy=Policy.RELAY_FIRST)  # type: ignore[arg-type]
        while one.path.relayed or other.path.relayed:
            await one.send(b"x")
            await other.recv()
            await asyncio.sleep(0.01)
        await exchange(one, other)


async def test_what_is_measured_is_echoed_beside_a_program(cluster: ClusterClient, fleet: Fleet) -> None:
    async with attached(cluster, fleet, "public") as (node,):
        row = await measured(cluster, fleet, "full_cone", "public")
        assert (row.outcome, row.first_byte_ms is not None) == (ConnectionOutcome.DIRECT, True)
        waiting = asyncio.ensure_future(anext(node.accept()))
        await asyncio.wait({waiting}, timeout=0.1)
        assert not waiting.done()
        waiting.cancel()


async def test_what_is_wrong_is_said_as_by_a_node_of_ones_own(cluster: ClusterClient, fleet: Fleet) -> None:
    async with attached(cluster, fleet, "full_cone") as (node,):
        with pytest.raises(InputError, match="did you mean 'public'"):
            await node.connect("publik")
        with pytest.raises(InputError, match="plugin"):
            await node.connect("public", plugin_name="no_such")
        with pytest.raises(ConnectFailed) as failed:
            await node.connect("public", plugin_name="random_probe", timeout_s=0.01)
        assert failed.value.reason in (Reason.DEADLINE, Reason.NOTHING_TO_TRY)
        with pytest.raises(InputError, match="another program is attached"):
            async with AttachedNode.open("full_cone", cluster=cluster):
                pass
        with pytest.raises(InputError, match="has no node"):
            async with AttachedNode.open("nobody", cluster=cluster):
                pass
        other = fleet.model_copy(update={"name": "other"})
        with pytest.raises(MissingError, match="does not serve fleet other"):
            async with AttachedNode.open("public", fleet=other, cluster=cluster):
                pass
    with pytest.raises(ConnectionLost):
        await node.connect("public")


async def test_a_program_that_is_killed_leaves_the_node_as_it_was(cluster: ClusterClient, fleet: Fleet) -> None:
    async with attached(cluster, fleet, "full_cone") as (near,):
        command = [sys.executable, str(PROGRAM), str(cluster.socket), "public"]
        program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert program.stdout
        assert await program.stdout.readline() == b"attached\n"
        pipes = []
        for plugin in ("direct_connect", "udp_punch"):
            pipes.append(await near.connect("public", plugin_name=plugin))
            await pipes[-1].send(b"hello")
            assert await program.stdout.readline() == b"full_cone hello\n"
        program.kill()
        await program.wait()
        for pipe in pipes:
            with pytest.raises(ConnectionLost):
                await pipe.recv()
            await pipe.close()
        assert (await measured(cluster, fleet, "full_cone", "public")).outcome is ConnectionOutcome.DIRECT
        unattached = await near.connect("public")
        await unattached.send(b"echoed")
        assert await unattached.recv() == b"echoed"
        await unattached.close()
        while True:  # the daemon hears of its end a moment later
            try:
                async with AttachedNode.open("public", cluster=cluster) as again:
                    await exchange(*await pair(near, again))
                break
            except InputError:
                await asyncio.sleep(0.05)
