"""The nodes that a plugin host serves: which it does, and what it tells of them."""

import asyncio

import pytest
from plugin_bench import NAME, Bench, Fake, spec

from fake_node import ALICE
from virtual_time import now_s, virtual_time
from warpfleet.actors.plugin_host import HostPorts
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.peer import PeerView
from warpfleet.plugins.contract import AttemptFactory
from warpfleet.plugins.node_ports import NodePorts
from warpfleet.plugins.registry import Registration

pytestmark = pytest.mark.usefixtures("fake_plugin")

DOOR = Endpoint("0.0.0.0", 443)


@virtual_time
async def test_a_node_that_the_plugin_opts_out_of_is_not_served() -> None:
    class Picky(Fake):
        @classmethod
        async def setup(cls, _node: object) -> None:
            return None

    bench = Bench()
    bench.host.bind(NAME, HostPorts(*[lambda *_: asyncio.sleep(0)] * 7))  # type: ignore[list-item]
    bench.host.registration = Registration(Picky, None)
    assert await bench.host.open_nodes([spec(ALICE)], []) == {"alice": None}
    await bench.host.close()


@virtual_time
async def test_where_nodes_are_mapped_is_told_and_those_who_plan_may_wait_for_it() -> None:
    granted, external = asyncio.Event(), Endpoint("198.51.100.7", 5555)

    class Mapping(Fake):
        @classmethod
        async def setup(cls, node: NodePorts) -> AttemptFactory | None:
            async def map_listener() -> None:
                await granted.wait()
                node.advertise_mapping(DOOR, external)

            node.advertise(DOOR)
            node.spawn(map_listener())
            node.expect(granted.wait)  # type: ignore[arg-type]
            return cls

    bench = Bench()
    bench.registration = Registration(Mapping, None)
    host = await bench.open({"alice": [DOOR], "bob": [DOOR]})
    settling = asyncio.create_task(host.settle())
    await asyncio.sleep(1)
    assert bench.mapped == [("alice", ()), ("bob", ())], "whoever held the nodes before may have had mappings"
    assert not settling.done()
    granted.set()
    await settling
    assert bench.mapped[2:] == [("alice", (external,)), ("bob", (external,))]
    host.tell_ports()
    await asyncio.sleep(0.1)
    assert bench.mapped[4:] == bench.mapped[2:4]
    await host.close()


@virtual_time
async def test_where_a_node_always_hears_is_told_and_told_again() -> None:
    class Standing(Fake):
        transport = Transport.UDP

        @classmethod
        async def setup(cls, node: NodePorts) -> AttemptFactory:
            async def listen() -> None:
                await node.viewed()
                node.advertise_standing(4, 4000)
                node.advertise_standing(6, 6000)
                node.advertise_standing(6, None)

            node.spawn(listen())
            return cls

    bench = Bench()
    bench.registration = Registration(Standing, None)
    host = await bench.open()
    await asyncio.sleep(1)
    assert bench.standing == [("alice", NAME, {}), ("bob", NAME, {})], "a host before this one may have told of some"
    await host.take_views({"alice": PeerView(name="alice", machine="")})
    await asyncio.sleep(1)
    told = [{4: 4000}, {4: 4000, 6: 6000}, {4: 4000}]
    assert bench.standing[2:] == [("alice", NAME, ports) for ports in told]
    host.tell_ports()
    await asyncio.sleep(1)
    assert bench.standing[5:] == [("alice", NAME, {4: 4000})]
    await host.close()


@virtual_time
async def test_a_gateway_that_dawdles_is_not_waited_for_without_end() -> None:
    class Dawdling(Fake):
        @classmethod
        async def setup(cls, node: NodePorts) -> AttemptFactory | None:
            node.expect(asyncio.Event().wait)  # type: ignore[arg-type]
            return cls

    bench = Bench()
    bench.registration = Registration(Dawdling, None)
    host = await bench.open()
    await host.settle()
    assert now_s() == pytest.approx(3)
    await host.close()
