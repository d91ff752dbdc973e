"""Simulated hosts behind simulated NATs: what their networks promise, packet by packet."""

import asyncio
from collections.abc import Iterator

import pytest

from warpfleet.configs.topology import PRESETS, HostSpec, NatSpec, TcpAnswer, Topology, find_topology
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.port_range import PortRange
from warpfleet.lab.sim.network import SimNetwork
from warpfleet.lab.sim.streams import SimStream
from warpfleet.lab.sim.world import World
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Unreachable
from warpfleet.net.natprobe import MORE_SOCKETS, probe

ANY = "0.0.0.0"


@pytest.fixture(scope="module")
def nine() -> Iterator[World]:
    """One host behind each preset."""
    with World(find_topology("default")) as world:
        yield world


def two(first: NatSpec | None, second: NatSpec | None) -> World:
    hosts = (HostSpec(name="one", nat=first, delay_ms=20), HostSpec(name="two", nat=second, delay_ms=20))
    return World(Topology(version=1, name="two", hosts=hosts))


def stun_of(world: World) -> tuple[Endpoint, ...]:
    return next(iter(world.nodes.values())).spec.stun


@pytest.mark.parametrize("preset", PRESETS)
def test_the_probe_recognises_every_preset(nine: World, preset: str) -> None:
    report = nine.run(probe(nine.network(preset), stun_of(nine), af=4))
    assert report.behaviour.alias == preset


@pytest.mark.parametrize("mapping", [Mapping.EIM, Mapping.ADM, Mapping.APDM])
@pytest.mark.parametrize("filtering", [Filtering.EIF, Filtering.ADF, Filtering.APDF])
def test_the_probe_sees_each_behaviour_of_rfc_4787(mapping: Mapping, filtering: Filtering) -> None:
    spec = NatSpec(mapping=mapping, filtering=filtering, port_assignment="random", hairpinning=True)
    with two(spec, None) as world:
        seen = world.run(probe(world.network("one"), stun_of(world), af=4)).behaviour
    assert (seen.mapping, seen.filtering, seen.hairpin) == (mapping, filtering, True)


@pytest.mark.parametrize("size", [256, 1024])
def test_the_probe_learns_the_block_that_ports_are_drawn_from(size: int) -> None:
    block = PortRange(40_000, 40_000 + size - 1)
    spec = NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM, port_range=block)
    with two(spec, None) as world:
        report = world.run(probe(world.network("one"), stun_of(world), af=4))
    assert report.behaviour.alias == "symmetric_random"
    learned = report.behaviour.port_range
    assert learned
    assert block.first <= learned.first < learned.last <= block.last
    assert learned.size > size / 2
    assert len(report.seen.more_ports) == MORE_SOCKETS


@pytest.mark.parametrize("preset", ["symmetric_sequential", "symmetric_random", "eim_random_ports"])
def test_the_probe_asks_for_no_more_ports_where_the_first_leave_no_doubts(nine: World, preset: str) -> None:
    report = nine.run(probe(nine.network(preset), stun_of(nine), af=4))
    assert (report.seen.more_ports, report.behaviour.port_range) == ((), None)


def test_behind_two_routers_the_probe_sees_what_the_two_make_together() -> None:
    with World(find_topology("cgn")) as world:
        seen = world.run(probe(world.network("two"), stun_of(world), af=4)).behaviour
    assert (seen.mapping, seen.filtering, seen.port_assignment) == ("EIM", "APDF", "random")


async def simultaneous_open(
    one: SimNetwork, two: SimNetwork, *, stagger_s: float = 0.0
) -> tuple[SimStream | BaseException, SimStream | BaseException]:
    """Both connect from a port to the endpoint that a STUN server saw of the other's."""
    port = 40_001
    ends = [await network.external_tcp_endpoint(4, port, timeout_s=3) for network in (one, two)]

    async def later() -> SimStream:
        await asyncio.sleep(stagger_s)
        return await two.connect_tcp(ends[0], timeout_s=10, local_port=port)

    first = one.connect_tcp(ends[1], timeout_s=10, local_port=port)
    a, b = await asyncio.gather(first, later(), return_exceptions=True)
    return a, b


@pytest.mark.parametrize("stagger_s", [0.0, 0.03, 0.3, 1.5])
@pytest.mark.parametrize("preset", ["port_restricted", "eim_random_ports", "public_firewalled"])
def test_two_syns_at_once_make_one_connection_through_endpoint_independent_nats(preset: str, stagger_s: float) -> None:
    async def talk(world: World) -> bytes:
        a, b = await simultaneous_open(world.network("one"), world.network("two"), stagger_s=stagger_s)
        assert isinstance(a, SimStream)
        assert isinstance(b, SimStream)
        await b.write(b"hello")
        return await a.read_exactly(5)

    with two(NatSpec(), PRESETS[preset]) as world:
        assert world.run(talk(world)) == b"hello"


def test_a_first_syn_that_dies_early_opens_its_own_filter_and_meets_no_refusal() -> None:
    async def meet(world: World) -> bytes:
        one, other = world.network("one"), world.network("two")
        ends = [await network.external_tcp_endpoint(4, 40_001, timeout_s=3) for network in (one, other)]
        with pytest.raises(ConnectRefused):
            await one.connect_tcp(ends[1], timeout_s=0.5, local_port=40_001)
        opening = asyncio.create_task(one.connect_tcp(ends[1], timeout_s=0.5, local_port=40_001, hop_limit=2))
        await asyncio.sleep(0.2)
        passing = await other.connect_tcp(ends[0], timeout_s=0.2, local_port=40_001)
        await passing.write(b"hello")
        return await (await opening).read_exactly(5)

    refusing = PRESETS["port_restricted"].model_copy(update={"tcp_unsolicited": TcpAnswer.RST})
    with two(refusing, refusing) as world:
        assert world.run(meet(world)) == b"hello"


@pytest.mark.parametrize(("hop_limit", "took_s"), [(None, 0.08), (3, 0.08), (2, 1.08), (1, 1.08)])
def test_a_first_syn_that_dies_is_followed_by_one_without_a_limit(hop_limit: int | None, took_s: float) -> None:
    """Past the home router and the internet. The retransmission of TCP comes after a second."""

    async def connect(world: World) -> float:
        listener = await world.network("two").listen_tcp(Endpoint(ANY, 4000))
        target = Endpoint(world.network("two").interfaces()[-1].ip, listener.local.port)
        began_s = asyncio.get_running_loop().time()
        await world.network("one").connect_tcp(target, timeout_s=3, hop_limit=hop_limit)
        return asyncio.get_running_loop().time() - began_s

    with two(PRESETS["full_cone"], None) as world:
        assert world.run(connect(world)) == pytest.approx(took_s, abs=0.001)


def test_an_address_and_port_dependent_mapping_defeats_a_simultaneous_open(nine: World) -> None:
    ends = nine.run(simultaneous_open(nine.network("port_restricted"), nine.network("symmetric_random")))
    assert [type(end) for end in ends] == [TimeoutError, TimeoutError]


def test_a_router_that_answers_with_a_reset_spoils_it_for_both() -> None:
    with two(NatSpec(), NatSpec(tcp_unsolicited=TcpAnswer.RST)) as world:
        ends = world.run(simultaneous_open(world.network("one"), world.network("two"), stagger_s=0.3))
    assert [type(end) for end in ends] == [ConnectRefused, TimeoutError]


async def refused(network: SimNetwork, remote: Endpoint) -> BaseException | None:
    try:
        (await network.connect_tcp(remote, timeout_s=3)).close()
    except (ConnectRefused, TimeoutError, Unreachable) as error:
        return error
    return None


def test_how_a_connect_fails_tells_why(nine: World) -> None:
    public, nat = (nine.nodes[name].view.external[4] for name in ("public", "full_cone"))
    caller = nine.network("port_restricted")
    assert isinstance(nine.run(refused(caller, Endpoint(public, 9))), ConnectRefused)
    assert isinstance(nine.run(refused(caller, Endpoint(nat, 443))), TimeoutError)
    assert isinstance(nine.run(refused(caller, Endpoint("192.168.7.7", 443))), TimeoutError)
    assert isinstance(nine.run(refused(caller, Endpoint("2001:db8:fffe::1", 443))), Unreachable)
    assert isinstance(nine.run(refused(nine.network("udp_blocked"), Endpoint(public, 444))), TimeoutError)
    assert nine.run(refused(nine.network("udp_blocked"), Endpoint(public, 443))) is None


def test_a_port_is_shared_only_among_those_who_say_so(nine: World) -> None:
    network, server = nine.network("public"), stun_of(nine)[0]

    async def scenario() -> None:
        alone = await network.listen_tcp(Endpoint(ANY, 7001))
        with pytest.raises(OSError, match="in use"):
            await network.listen_tcp(Endpoint(ANY, 7001), shared=True)
        with pytest.raises(OSError, match="in use"):
            await network.connect_tcp(server, timeout_s=1, local_port=7001)
        alone.close()
        shared = await network.listen_tcp(Endpoint(ANY, 7001), shared=True)
        stream = await network.connect_tcp(server, timeout_s=1, local_port=7001)
        assert stream.local.port == 7001
        with pytest.raises(Unreachable):
            await network.connect_tcp(server, timeout_s=1, local_port=7001)
        stream.close()
        shared.close()
        first = await network.open_udp(4, 7002)
        with pytest.raises(OSError, match="in use"):
            await network.open_udp(4, 7002)
        first.close()
        (await network.open_udp(4, 7002)).close()

    nine.run(scenario())


def test_a_syn_that_came_to_the_listener_owns_the_connection_that_we_would_make(nine: World) -> None:
    one, other = nine.network("public"), nine.network("full_cone")
    outside = Endpoint(nine.nodes["public"].view.external[4], 7003)

    async def scenario() -> None:
        listener = await one.listen_tcp(Endpoint(ANY, 7003), shared=True)
        theirs = await other.connect_tcp(outside, timeout_s=3)
        ours = await listener.accept()
        with pytest.raises(Unreachable):
            await one.connect_tcp(ours.remote, timeout_s=3, local_port=7003)
        await ours.write(b"here")
        assert await theirs.read_exactly(4) == b"here"
        for socket in (ours, theirs, listener):
            socket.close()

    nine.run(scenario())


def test_a_closed_socket_wakes_whoever_waits_on_it(nine: World) -> None:
    network = nine.network("public")

    async def scenario() -> list[BaseException | object]:
        socket, listener = await network.open_udp(4), await network.listen_tcp(Endpoint(ANY, 0))
        waiting = [asyncio.create_task(socket.receive()), asyncio.create_task(listener.accept())]
        await asyncio.sleep(0.1)
        socket.close()
        listener.close()
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    assert [type(end) for end in nine.run(scenario())] == [ConnectionLost, ConnectionLost]


@pytest.mark.parametrize(("preset", "round_trips"), [("port_restricted", 2), ("udp_blocked", 3)])
def test_a_relay_lets_in_whom_it_was_sent_to_over_udp_or_tcp(nine: World, preset: str, round_trips: int) -> None:
    client, peer = nine.network(preset), nine.network("public")
    if preset == "udp_blocked":
        client.avoid_udp()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        relay = await client.allocate_relay(4, timeout_s=5)
        assert loop.time() - began_s == pytest.approx(round_trips * 0.04, abs=0.001)
        friend, stranger = await peer.open_udp(4), await nine.network("full_cone").open_udp(4)
        outside = nine.nodes["public"].view.external[4]
        relay.send_to(b"hello", Endpoint(outside, friend.local.port))
        assert await friend.receive() == (b"hello", relay.local)
        stranger.send_to(b"let me in", relay.local)
        friend.send_to(b"welcome", relay.local)
        assert await relay.receive() == (b"welcome", Endpoint(outside, friend.local.port))
        relay.close()
        with pytest.raises(ConnectionLost):
            await relay.receive()
        await asyncio.sleep(1)
        friend.send_to(b"too late", relay.local)

    nine.run(scenario())


def test_hosts_of_one_network_reach_each_other_and_their_external_endpoint_only_by_a_hairpin() -> None:
    with World(find_topology("home")) as world:

        async def heard(sender: str, receiver: str, *, outside: bool) -> bool:
            source, target = await world.network(sender).open_udp(4), await world.network(receiver).open_udp(4)
            reflexive = await world.network(receiver).external_endpoint(target, timeout_s=3)
            inside = Endpoint(world.network(receiver).interfaces()[2].ip, target.local.port)
            source.send_to(b"hello", reflexive if outside else inside)
            try:
                async with asyncio.timeout(1):
                    await target.receive()
            except TimeoutError:
                return False
            return True

        pairs = [("desktop", "laptop"), ("console", "phone")]
        assert [world.run(heard(*pair, outside=False)) for pair in pairs] == [True, True]
        assert [world.run(heard(*pair, outside=True)) for pair in pairs] == [False, True]
