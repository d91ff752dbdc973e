"""One node connects to another as a library does it: real broker, real sockets, one event loop."""

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from loopback_nodes import HOME, NEEDS_BROKER, Cast, accepted, exchange, hub_of, opened, record_of
from pyarrow import parquet

from warpfleet.actors.base_node import ConnectFailed
from warpfleet.actors.node import Node
from warpfleet.core.combo import Reason, RouteType, Transport
from warpfleet.core.targets import loopback_alias
from warpfleet.net.stunserver import StunServer
from warpfleet.signal.record import ListenerAddress, record_topic

pytestmark = [NEEDS_BROKER, pytest.mark.usefixtures("nothing_is_left")]


def test_a_node_without_telemetry_is_not_kept_waiting_by_what_it_does_not_need() -> None:
    needless = ("duckdb", "pyarrow", "matplotlib", "jinja2", "ray", "rich", "typer", "amqtt", "aiohttp")
    said = f"""import sys, warpfleet.actors.node
from warpfleet.net.portmap.client import client_at  # which whoever has a gateway uses
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.loader import registrations
registrations(), client_at(Vantage(), 4)
print(*sys.modules.keys() & {set(needless)})"""
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


async def test_two_nodes_connect_by_loopback_and_exchange_bytes(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        pipe = await alice.connect("bob", plugin_name="direct_connect", route_type=RouteType.LOOPBACK)
        other = await accepted(bob)
        assert (pipe.peer, other.peer, pipe.path.transport) == ("bob", "alice", Transport.TCP)
        assert pipe.path.remote.ip.startswith("127.")
        await exchange(pipe, other)


async def test_an_unpinned_connect_finds_a_way(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        await exchange(await alice.connect("bob", timeout_s=5), await accepted(bob))


async def test_both_connect_to_each_other_at_once(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        outward, inward = await asyncio.gather(alice.connect("bob"), bob.connect("alice"))
        await exchange(outward, await accepted(bob))
        await exchange(inward, await accepted(alice))


async def test_many_connections_at_once_are_told_apart(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        pipes = await asyncio.gather(*(alice.connect("bob") for _ in range(8)))
        others = {pipe.path.remote: pipe for pipe in [await accepted(bob) for _ in pipes]}
        for pipe in pipes:
            await exchange(pipe, others[pipe.path.local])


async def test_a_peer_that_is_trusted_later_can_connect(broker: str, cast: Cast) -> None:
    options: dict[str, Any] = {"mqtt": [broker], "vantage": HOME}
    async with Node.open(cast.alice, **options) as alice, Node.open(cast.bob, **options) as bob:
        await alice.trust(bob.public)
        await bob.trust(alice.public)
        await exchange(await alice.connect("bob", timeout_s=5), await accepted(bob))


async def test_a_peer_that_comes_up_during_connect_is_reached(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        connecting = asyncio.create_task(alice.connect("bob"))
        async with Node.open(cast.bob, peers=[alice.public], mqtt=[broker], vantage=HOME) as bob:
            await exchange(await connecting, await accepted(bob))


async def test_a_peer_without_a_record_on_the_broker_is_asked(broker: str, cast: Cast) -> None:
    port = int(broker.rpartition(":")[2])
    async with Node.open(cast.bob, peers=[cast.alice.public], mqtt=[broker], vantage=HOME) as bob:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.publish(record_topic(bob.public.node_id), b"", qos=1, retain=True)
        async with Node.open(cast.alice, peers=[bob.public], mqtt=[broker], vantage=HOME) as alice:
            await exchange(await alice.connect("bob"), await accepted(bob))


async def test_stun_shows_a_node_its_external_address(broker: str, cast: Cast) -> None:
    server = await StunServer.start()
    try:
        async with opened(broker, cast.alice, stun=[str(endpoint) for endpoint in server.endpoints]) as (alice,):
            assert alice.view.external[4] == "127.0.0.1"
    finally:
        await server.close()


async def test_a_peer_that_was_never_there_fails_with_a_reason(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        with pytest.raises(ConnectFailed, match="the time allowed for the whole connection had passed") as failed:
            await alice.connect("bob", timeout_s=0.3)
        assert failed.value.reason is Reason.DEADLINE
        assert (failed.value.row.initiator, failed.value.row.responder) == ("alice", "bob")


async def test_a_peer_that_is_down_fails_with_a_reason(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        await (await alice.connect("bob")).close()
        await bob.close()
        with pytest.raises(ConnectFailed, match="refused") as failed:
            await alice.connect("bob", plugin_name="direct_connect", timeout_s=5)
        assert failed.value.reason is Reason.ALL_FAILED


async def test_the_deadline_is_kept_although_the_peer_is_silent(broker: str, cast: Cast) -> None:
    alias = loopback_alias(cast.bob.public.key)
    with socket.create_server((alias, 0)) as silent:
        listener = ListenerAddress(ip=alias, port=silent.getsockname()[1])
        async with hub_of(cast.bob, broker, cast.alice.public) as (hub, _):
            hub.publish_record("bob", record_of(cast.bob, listener))
            async with opened(broker, cast.alice) as (alice,):
                await alice.trust(cast.bob.public)
                began_s = time.monotonic()
                with pytest.raises(ConnectFailed) as failed:
                    await alice.connect("bob", timeout_s=0.3)
                assert failed.value.reason is Reason.DEADLINE
                assert 0.3 <= time.monotonic() - began_s < 2


async def test_telemetry_has_a_row_of_each_connection(broker: str, tmp_path: Path, cast: Cast) -> None:
    async with opened(broker, cast.bob) as (bob,):
        await bob.trust(cast.alice.public)
        options: dict[str, Any] = {"peers": [bob.public], "mqtt": [broker], "vantage": HOME}
        async with Node.open(cast.alice, telemetry=tmp_path, **options) as alice:
            await (await alice.connect("bob", plugin_name="direct_connect")).close()
            with pytest.raises(ConnectFailed):
                await alice.connect("bob", plugin_name="turn")
    rows = parquet.read_table(tmp_path / "connections").to_pylist()
    assert sorted((row["responder"], row["outcome"], row["plugin"]) for row in rows) == [
        ("bob", "direct", "direct_connect"),
        ("bob", "failed", None),
    ]
    attempts = parquet.read_table(tmp_path / "attempts").to_pylist()
    assert {row["outcome"] for row in attempts} >= {"won", "skipped"}
