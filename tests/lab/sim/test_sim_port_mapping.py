"""Port mapping in the simulated laboratory: who is reached directly, and what an ended lease leaves behind."""

import random

import pytest

from warpfleet.configs.topology import NatSpec, Topology
from warpfleet.core.combo import ConnectionOutcome, Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.lab.sim.nat import Drop, Nat
from warpfleet.lab.sim.packet import Flags, Packet, Segment
from warpfleet.lab.sim.world import World
from warpfleet.net.portmap.client import LIFETIME_S

PROTOCOLS = ("pcp", "natpmp", "upnp")
MAPPED_IP = "192.0.1.1"


def topology(*protocols: str, **more: object) -> Topology:
    """`home` stands behind a router that maps ports by these protocols, `away` behind one that does not."""
    nat = {"preset": "symmetric_random", "port_mapping": list(protocols)}
    hosts = [
        {"name": "home", "nat": nat, "delay_ms": 20, **more},
        {"name": "away", "nat": "port_restricted", "delay_ms": 20, **more},
    ]
    return Topology.model_validate({"version": 1, "name": "mapped", "hosts": hosts})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_host_behind_a_router_that_maps_ports_is_reached_directly(protocol: str) -> None:
    with World(topology(protocol)) as world:
        [mapped] = world.nodes["home"].view.mapped
        row = world.connect("away", "home")
    assert mapped.ip == MAPPED_IP
    assert (row.outcome, row.plugin, row.remote_endpoint) == (ConnectionOutcome.DIRECT, "direct_connect", str(mapped))
    assert row.connect_ms == pytest.approx(2 * 80, abs=0.1)  # SYN, and HELLO and PROOF by signal meanwhile; TAKE


def test_the_one_behind_it_has_itself_dialled() -> None:
    with World(topology("pcp")) as world:
        row = world.connect("home", "away", only="reverse_connect")
    assert (row.outcome, row.plugin) == (ConnectionOutcome.DIRECT, "reverse_connect")


def test_without_port_mapping_it_is_not_reached() -> None:
    with World(topology()) as world:
        assert world.nodes["home"].view.mapped == ()
        assert world.connect("away", "home", only="direct_connect").reason is Reason.ONLY_LONG_SHOTS


def test_a_mapping_outlives_its_lifetime_by_being_renewed() -> None:
    with World(topology("upnp")) as world:
        world.wait(3 * LIFETIME_S)
        assert world.connect("away", "home", only="direct_connect").outcome is ConnectionOutcome.DIRECT


def test_a_pinhole_lets_ipv6_in() -> None:
    with World(topology("pcp", ipv6="firewalled")) as world:
        assert {mapped.af for mapped in world.nodes["home"].view.mapped} == {4, 6}
        six = world.connect("away", "home", only="direct_connect", af=6)
    assert six.outcome is ConnectionOutcome.DIRECT


def test_behind_two_nats_a_mapping_is_worth_nothing() -> None:
    routers = [
        {"name": "carrier", "nat": "port_restricted"},
        {"name": "customer", "nat": {"preset": "port_restricted", "port_mapping": ["pcp"]}, "behind": "carrier"},
    ]
    hosts = [{"name": "home", "behind": "customer"}, {"name": "away", "nat": "full_cone"}]
    made = Topology.model_validate({"version": 1, "name": "double", "routers": routers, "hosts": hosts})
    with World(made) as world:
        assert world.nodes["home"].view.mapped == ()


async def closed_port(world: World) -> Endpoint:
    """Map a port of `home` by a network of its own, release it, and tell where it was."""
    network = world.network("home")
    lease = network.map_port(4321, 4)
    external = await lease.changed()
    await network.close()
    assert external
    return external


def test_a_released_port_is_closed_again() -> None:
    with World(topology("pcp")) as world:
        external = world.run(closed_port(world))
        # Whoever asks for it next gets it: nobody holds it any more.
        assert world.run(closed_port(world)) == external
        with pytest.raises(TimeoutError):
            world.run(world.network("away").connect_tcp(external, timeout_s=5.0))


def router(**knobs: object) -> Nat:
    return Nat(NatSpec.model_validate({"port_mapping": ["pcp"], **knobs}), MAPPED_IP, random.Random(1))


INSIDE, ANOTHER, STRANGER = Endpoint("192.168.1.2", 80), Endpoint("192.168.1.3", 80), Endpoint("198.51.100.9", 9)


def syn(external: Endpoint) -> Packet:
    return Packet(STRANGER, external, Segment(Flags.SYN, 1, 0))


def test_an_open_port_lets_strangers_in_until_its_time_is_up() -> None:
    nat = router()
    external = nat.open_port(INSIDE, 8080, 60.0, 0.0)
    assert external == Endpoint(MAPPED_IP, 8080)
    let_in = nat.inbound(syn(external), 59.0)
    assert isinstance(let_in, Packet)
    assert let_in.destination == INSIDE
    assert nat.outbound(Packet(INSIDE, STRANGER, Segment(Flags.SYN | Flags.ACK, 1, 2)), 59.1) != Drop.NO_PORT
    assert isinstance(router().inbound(syn(external), 0.0), Drop)


def test_an_open_port_is_renewed_closed_and_given_to_one_host_alone() -> None:
    nat = router()
    first = nat.open_port(INSIDE, 8080, 60.0, 0.0)
    assert nat.open_port(INSIDE, 9090, 60.0, 50.0) == first
    other = nat.open_port(ANOTHER, 8080, 60.0, 50.0)
    assert first
    assert other
    assert other.port != 8080
    assert isinstance(nat.inbound(syn(first), 100.0), Packet)
    nat = router()
    nat.open_port(INSIDE, 8080, 60.0, 0.0)
    nat.open_port(INSIDE, 0, 0.0, 1.0)
    assert isinstance(nat.inbound(syn(first), 1.0), Drop)
    assert nat.open_port(ANOTHER, 8080, 60.0, 1.0) == first
