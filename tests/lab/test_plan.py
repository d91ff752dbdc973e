"""The layout of a laboratory, and the rulesets of its routers, as text."""

import itertools
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.configs.line import LineQuality
from warpfleet.configs.topology import PRESETS, Ipv6, NatSpec, RouterSpec, TcpAnswer, Topology
from warpfleet.core.errors import InputError
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.port_mapping import PortMapping
from warpfleet.core.port_range import WHOLE, PortRange
from warpfleet.lab.nat_rules import ruleset
from warpfleet.lab.plan import Plan, layout


@st.composite
def nats(draw: st.DrawFn) -> NatSpec:
    translated = draw(st.booleans())
    mapping = draw(st.sampled_from([Mapping.EIM, Mapping.ADM, Mapping.APDM]))
    ports = [PortAssignment.RANDOM, PortAssignment.SEQUENTIAL]
    return NatSpec(
        translated=translated,
        port_mapping=tuple(draw(st.sets(st.sampled_from(PortMapping)))) if translated else (),
        mapping=mapping,
        filtering=draw(st.sampled_from([Filtering.EIF, Filtering.ADF, Filtering.APDF])),
        port_assignment=draw(st.sampled_from(ports + [PortAssignment.PRESERVING] * (mapping is Mapping.EIM))),
        port_delta=draw(st.integers(-64, 64).filter(bool)),
        port_range=draw(st.sampled_from([None, PortRange(1024, 1152), PortRange(40_000, 41_023)])),
        hairpinning=draw(st.booleans()),
        udp_lifetime_s=draw(st.integers(1, 86_400)),
        tcp_unsolicited=draw(st.sampled_from(TcpAnswer)),
        udp_blocked=draw(st.booleans()),
        tcp_out_ports=draw(st.sampled_from([(), (80, 443)])),
    )


def rules(nat: NatSpec, name: str = "r") -> str:
    router = RouterSpec.model_construct(name=name, nat=nat, behind=None, delay_ms=0.0, ipv6=Ipv6.NONE)
    return ruleset(router, "198.18.0.1", "192.168.1.0/24")


@given(nats())
def test_every_ruleset_drops_what_nobody_asked_for(nat: NatSpec) -> None:
    text = rules(nat)
    assert text.count("{") == text.count("}")
    assert text.count("policy drop") == 2
    assert ("snat" in text) == nat.translated
    assert ("meta l4proto udp drop" in text) == nat.udp_blocked
    assert ("tcp reset" in text) == (nat.tcp_unsolicited is TcpAnswer.RST)


@given(nats())
def test_a_router_hears_questions_for_the_protocols_that_it_speaks_and_no_others(nat: NatSpec) -> None:
    text = rules(nat)
    assert ("dport 1900 accept" in text) == (PortMapping.UPNP in nat.port_mapping)
    assert ("@th,64,8 0 accept" in text) == (PortMapping.NATPMP in nat.port_mapping)
    assert ("@th,64,8 2 accept" in text) == (PortMapping.PCP in nat.port_mapping)
    assert text.count("jump mapped") == (3 if nat.port_mapping else 0)


@given(nats(), st.sampled_from(["a.router", "b.router", "carrier", "x"]))
def test_sequential_ports_are_ports_one_step_apart(nat: NatSpec, name: str) -> None:
    sequential = nat.model_copy(update={"translated": True, "port_assignment": PortAssignment.SEQUENTIAL})
    listed = rules(sequential, name).partition("numgen inc mod ")[2].partition("{")[2].partition("}")[0]
    ports = [int(pair.partition(":")[2]) for pair in listed.split(",")]
    assert {after - before for before, after in itertools.pairwise(ports)} == {nat.port_delta}
    first, last = nat.port_range or WHOLE
    assert first <= min(ports)
    assert max(ports) <= last


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    modes = st.sampled_from(["none", "open", "firewalled"])
    translated = [name for name, nat in PRESETS.items() if nat and nat.translated]
    routers: list[dict[str, Any]] = []
    for index in range(draw(st.integers(0, 4))):
        chosen = draw(st.sampled_from([None, *routers]))
        behind = {"behind": chosen["name"], "ipv6": "none"} if chosen else {"ipv6": draw(modes)}
        nat = {"preset": draw(st.sampled_from(translated)), "port_mapping": draw(st.sampled_from([(), ("pcp",)]))}
        routers.append({"name": f"r{index}", "nat": nat, **behind})
    hosts: list[dict[str, Any]] = []
    for index in range(draw(st.integers(1, 12))):
        places: list[dict[str, Any]] = [{"behind": router["name"]} for router in routers]
        places += [{"nat": name, "ipv6": draw(modes)} for name, nat in PRESETS.items() if nat] + [{}, {"ipv6": "open"}]
        hosts.append({"name": f"h{index}", "delay_ms": draw(st.sampled_from([0, 20])), **draw(st.sampled_from(places))})
    return Topology.model_validate({"version": 1, "name": "t", "routers": routers, "hosts": hosts})


def global_addresses(plan: Plan) -> list[str]:
    words = [command.split() for namespace in plan.namespaces for command in namespace.commands]
    given = [line[2].partition("/")[0] for line in words if line[:2] == ["addr", "add"]]
    return [address for address in given if ip_address(address) not in ip_network("192.168.0.0/16")]


@given(topologies())
def test_no_address_device_or_namespace_is_given_twice(topology: Topology) -> None:
    plan = layout(topology, "lab")
    ends = [end for link in plan.links for end in (link.a, link.b)]
    macs = [end.mac for end in ends]
    devices = [(end.namespace, end.device) for end in ends]
    names = [namespace.name for namespace in plan.namespaces]
    public = [a for a in global_addresses(plan) if ip_address(a) not in ip_network("100.64.0.0/10")]
    for unique in (macs, devices, names, public):
        assert len(set(unique)) == len(unique)
    assert all(len(device) <= 15 for _, device in devices)


@given(topologies())
def test_every_host_has_a_node_and_every_place_one_way_up(topology: Topology) -> None:
    plan = layout(topology, "lab")
    assert [node.name for node in plan.nodes] == [host.name for host in topology.hosts]
    assert len(plan.links) == len(plan.namespaces) - 1
    assert len({link.b.namespace for link in plan.links}) == len(plan.links)


@given(topologies())
def test_delay_stands_on_the_line_it_was_asked_for(topology: Topology) -> None:
    plan = layout(topology, "lab")
    delays = {link.b.namespace: link.quality.delay_ms for link in plan.links}
    for host in topology.hosts:
        owner = f"wf.lab.{host.name}" + (".router" if host.nat else "")
        assert delays[owner] == host.delay_ms


def test_several_hundred_hosts_fit() -> None:
    hosts = [{"name": f"h{index}", "nat": "public_firewalled", "delay_ms": 20} for index in range(1000)]
    plan = layout(Topology.model_validate({"version": 1, "name": "t", "hosts": hosts}), "lab")
    assert len(plan.namespaces) == 2001


def test_a_full_network_is_said_to_be_full() -> None:
    routers = [{"name": "r", "nat": "public_firewalled"}]
    hosts = [{"name": f"h{index}", "behind": "r"} for index in range(14)]
    with pytest.raises(InputError, match="more than 13 hosts"):
        layout(Topology.model_validate({"version": 1, "name": "t", "routers": routers, "hosts": hosts}), "lab")


def test_three_hundred_hosts_fit_behind_one_nat() -> None:
    routers = [{"name": "r", "nat": "full_cone"}]
    hosts = [{"name": f"h{index}", "behind": "r"} for index in range(300)]
    plan = layout(Topology.model_validate({"version": 1, "name": "t", "routers": routers, "hosts": hosts}), "lab")
    assert len(plan.nodes) == 300


def test_a_node_beside_another_shares_its_namespace() -> None:
    hosts = [{"name": "a", "nat": "full_cone"}, {"name": "b", "beside": "a"}]
    plan = layout(Topology.model_validate({"version": 1, "name": "t", "hosts": hosts}), "lab")
    assert [(node.name, node.namespace) for node in plan.nodes] == [("a", "wf.lab.a"), ("b", "wf.lab.a")]


def test_a_broker_with_a_delay_stands_at_the_end_of_a_line_of_its_own() -> None:
    hosts = [{"name": "a", "delay_ms": 20}]
    plan = layout(Topology.model_validate({"version": 1, "name": "t", "broker_delay_ms": 250, "hosts": hosts}), "lab")
    [line] = [link for link in plan.links if link.b.namespace == plan.broker]
    assert (plan.broker, line.a.namespace, line.quality) == ("wf.lab.broker", "wf.lab.core", LineQuality(250))
    core = plan.namespaces[0].commands
    assert any(command.startswith("route add 203.0.113.10 ") and line.a.device in command for command in core)
