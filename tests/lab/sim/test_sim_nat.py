"""The NAT state machine, with plain packets and a clock that is an argument."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.configs.topology import PRESETS, NatSpec
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.port_range import PortRange
from warpfleet.lab.sim.nat import Drop, Nat, Tcp, Way, next_tcp
from warpfleet.lab.sim.packet import Flags, Packet, Segment

OUTSIDE = "198.18.0.1"
ALICE, LAPTOP = Endpoint("192.168.1.2", 5000), Endpoint("192.168.1.3", 5000)
BOB, BOB_ELSEWHERE, CAROL = Endpoint("203.0.113.5", 7000), Endpoint("203.0.113.5", 7001), Endpoint("203.0.113.6", 7000)
SYN, SYN_ACK, ACK, RST = Flags.SYN, Flags.SYN | Flags.ACK, Flags.ACK, Flags.RST

remotes = st.builds(Endpoint, st.sampled_from(["203.0.113.5", "203.0.113.6", "203.0.113.7"]), st.integers(1, 4))
filterings = st.sampled_from([Filtering.EIF, Filtering.ADF, Filtering.APDF])


def nat(**knobs: object) -> Nat:
    return Nat(NatSpec(**knobs), OUTSIDE, random.Random(1))  # type: ignore[arg-type]


def out(box: Nat, source: Endpoint, remote: Endpoint, now_s: float = 0.0, flags: Flags | None = None) -> Endpoint:
    """Send outwards; the external endpoint."""
    passed = box.outbound(packet(source, remote, flags), now_s)
    assert isinstance(passed, Packet), passed
    assert passed.destination == remote
    return passed.source


def into(box: Nat, remote: Endpoint, external: Endpoint, now_s: float = 0.0, flags: Flags | None = None) -> object:
    """Send inwards; the internal endpoint, or why it did not arrive."""
    passed = box.inbound(packet(remote, external, flags), now_s)
    return passed.destination if isinstance(passed, Packet) else passed


def packet(source: Endpoint, destination: Endpoint, flags: Flags | None = None) -> Packet:
    return Packet(source, destination, b"" if flags is None else Segment(flags, 0))


@given(st.lists(remotes, min_size=1, max_size=20))
def test_an_endpoint_independent_mapping_is_one_port_whatever_the_destination(targets: list[Endpoint]) -> None:
    box = nat(port_assignment=PortAssignment.RANDOM)
    assert len({out(box, ALICE, target) for target in targets}) == 1


@given(st.lists(remotes, min_size=1, max_size=20))
def test_a_dependent_mapping_is_one_port_for_each_address_or_endpoint(targets: list[Endpoint]) -> None:
    by_address = nat(mapping=Mapping.ADM, port_assignment=PortAssignment.RANDOM)
    by_endpoint = nat(mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM)
    assert len({out(by_address, ALICE, target) for target in targets}) == len({target.ip for target in targets})
    assert len({out(by_endpoint, ALICE, target) for target in targets}) == len(set(targets))


@given(filterings, st.lists(remotes, min_size=1, max_size=8), remotes)
def test_the_filter_lets_in_whom_it_must_and_nobody_else(
    filtering: Filtering, sent_to: list[Endpoint], stranger: Endpoint
) -> None:
    box = nat(filtering=filtering)
    external = min(out(box, ALICE, target) for target in sent_to)
    admitted = {
        Filtering.EIF: True,
        Filtering.ADF: stranger.ip in {target.ip for target in sent_to},
        Filtering.APDF: stranger in sent_to,
    }[filtering]
    assert into(box, stranger, external) == (ALICE if admitted else Drop.FILTERED)


@given(st.lists(remotes, min_size=1, max_size=8), remotes)
def test_a_firewall_translates_nothing_and_filters_alike(sent_to: list[Endpoint], stranger: Endpoint) -> None:
    box = nat(translated=False)
    public = Endpoint("198.19.0.18", 5000)
    assert {out(box, public, target) for target in sent_to} == {public}
    assert into(box, stranger, public) == (public if stranger in sent_to else Drop.FILTERED)


@given(
    st.sampled_from([Mapping.EIM, Mapping.ADM, Mapping.APDM]),
    filterings,
    st.sampled_from([PortAssignment.RANDOM, PortAssignment.SEQUENTIAL]),
    st.lists(st.tuples(st.sampled_from([ALICE, LAPTOP]), remotes, st.floats(0, 200)), min_size=1, max_size=30),
)
def test_whatever_was_sent_is_answered_to_whom_sent_it(
    mapping: Mapping,
    filtering: Filtering,
    ports: PortAssignment,
    traffic: list[tuple[Endpoint, Endpoint, float]],
) -> None:
    box = nat(mapping=mapping, filtering=filtering, port_assignment=ports)
    now_s, owners = 0.0, {}
    for source, remote, pause_s in traffic:
        now_s += pause_s
        external = out(box, source, remote, now_s)
        owners = {port: owner for port, owner in owners.items() if owner[1] > now_s}
        assert owners.get(external, (source, 0))[0] == source, "two hosts have one external port"
        owners[external] = source, now_s + box.spec.udp_lifetime_s
        assert into(box, remote, external, now_s) == source


def test_an_open_firewall_lets_in_what_nobody_asked_for() -> None:
    public = Endpoint("198.19.0.18", 5000)
    assert into(nat(translated=False, filtering=Filtering.EIF), BOB, public) == public


def test_a_mapping_dies_after_its_lifetime_and_traffic_of_either_direction_keeps_it() -> None:
    box = nat(udp_lifetime_s=30, filtering=Filtering.EIF)
    external = out(box, ALICE, BOB, 0.0)
    assert into(box, BOB, external, 29.9) == ALICE
    assert into(box, BOB, external, 59.8) == ALICE
    assert into(box, BOB, external, 89.9) is Drop.UNMAPPED


def test_a_filter_forgets_whom_it_has_not_heard_of_for_a_lifetime() -> None:
    box = nat(udp_lifetime_s=30)
    external = out(box, ALICE, BOB, 0.0)
    out(box, ALICE, CAROL, 20.0)
    assert into(box, BOB, external, 40.0) is Drop.FILTERED
    assert into(box, CAROL, external, 40.0) == ALICE


def test_ports_are_preserved_for_the_first_host_and_random_for_the_next() -> None:
    box = nat()
    assert out(box, ALICE, BOB) == Endpoint(OUTSIDE, 5000)
    second = out(box, LAPTOP, BOB)
    assert second.port != 5000
    assert out(box, LAPTOP, CAROL) == second
    assert into(box, BOB, second) == LAPTOP


@pytest.mark.parametrize("delta", [1, 3, -2])
def test_a_sequential_allocator_takes_steps(delta: int) -> None:
    box = nat(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=delta)
    ports = [out(box, ALICE, remote).port for remote in (BOB, CAROL, BOB_ELSEWHERE)]
    assert [later - earlier for earlier, later in pairwise(ports)] == [delta, delta]


@pytest.mark.parametrize("assignment", [PortAssignment.RANDOM, PortAssignment.SEQUENTIAL])
def test_ports_are_taken_from_the_block_until_it_is_full(assignment: PortAssignment) -> None:
    block = PortRange(40_000, 40_063)
    box = nat(mapping=Mapping.APDM, port_assignment=assignment, port_range=block)
    targets = [Endpoint("203.0.113.5", port) for port in range(1, 201)]
    passed = [box.outbound(packet(ALICE, target), 0.0) for target in targets]
    ports = [one.source.port for one in passed if isinstance(one, Packet)]
    assert len(ports) == len(set(ports)) > 60
    assert block.first <= min(ports) <= max(ports) <= block.last
    assert passed[-1] is Drop.NO_PORT


def test_a_sequential_allocator_begins_anew_and_passes_over_what_is_taken() -> None:
    box = nat(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=64)
    targets = [Endpoint("203.0.113.5", port) for port in range(1, 258)]
    ports = [box.outbound(packet(ALICE, target), 0.0) for target in targets]
    assert len({p.source for p in ports if isinstance(p, Packet)}) == 256
    assert ports[256] is Drop.NO_PORT


def test_an_answer_to_what_an_open_filter_let_in_leaves_by_the_same_port() -> None:
    box = nat(mapping=Mapping.APDM, filtering=Filtering.EIF, port_assignment=PortAssignment.RANDOM)
    external = out(box, ALICE, BOB)
    assert into(box, CAROL, external) == ALICE
    assert out(box, ALICE, CAROL) == external


def test_a_hairpin_comes_from_the_external_endpoint_and_only_where_there_is_one() -> None:
    box = nat(hairpinning=True)
    external = out(box, LAPTOP, BOB)
    turned = box.hairpin(packet(ALICE, external), 0.0)
    assert turned == replace(packet(ALICE, LAPTOP), source=out(box, ALICE, BOB))
    assert box.hairpin(packet(ALICE, Endpoint(OUTSIDE, 1)), 0.0) is Drop.UNMAPPED
    assert nat().hairpin(packet(ALICE, external), 0.0) is Drop.NO_HAIRPIN


def test_what_is_blocked_does_not_get_out_or_in() -> None:
    spec = PRESETS["udp_blocked"]
    assert spec
    box = Nat(spec, OUTSIDE, random.Random(1))
    assert box.outbound(packet(ALICE, BOB), 0.0) is Drop.UDP_BLOCKED
    assert into(box, BOB, Endpoint(OUTSIDE, 5000)) is Drop.UDP_BLOCKED
    assert box.outbound(packet(ALICE, BOB, SYN), 0.0) is Drop.PORT_BLOCKED
    assert out(box, ALICE, Endpoint("203.0.113.5", 443), flags=SYN)


def test_tcp_comes_in_only_as_an_answer() -> None:
    box = nat()
    external = out(box, ALICE, BOB, flags=SYN)
    assert into(box, CAROL, external, flags=SYN) is Drop.FILTERED
    assert into(box, BOB, external, flags=SYN_ACK) == ALICE
    opened = nat(filtering=Filtering.EIF)
    external = out(opened, ALICE, BOB, flags=SYN)
    assert into(opened, CAROL, external, flags=ACK) is Drop.NO_SESSION
    assert into(opened, CAROL, external, flags=SYN) == ALICE


def test_an_established_connection_outlives_an_opening_one_and_a_reset_ends_both() -> None:
    box = nat()
    opening = out(box, ALICE, BOB, flags=SYN)
    established = out(box, LAPTOP, BOB, flags=SYN)
    into(box, BOB, established, flags=SYN_ACK)
    assert into(box, BOB, opening, 241.0, SYN_ACK) is Drop.UNMAPPED
    assert into(box, BOB, established, 7000.0, ACK) == LAPTOP
    assert into(box, BOB, established, 7000.0, RST) == LAPTOP
    assert into(box, BOB, established, 7011.0, ACK) is Drop.UNMAPPED


def test_after_a_reset_only_our_own_syn_opens_the_way_again() -> None:
    box = nat()
    external = out(box, ALICE, BOB, flags=SYN)
    into(box, BOB, external, flags=RST | ACK)
    assert into(box, BOB, external, flags=SYN) is Drop.NO_SESSION
    out(box, ALICE, BOB, flags=SYN)
    assert into(box, BOB, external, flags=SYN) == ALICE


def expected_tcp(state: Tcp, answer: bool, flags: Flags) -> Tcp:
    if flags & RST:
        return Tcp.CLOSED
    if state in (Tcp.CLOSING, Tcp.CLOSED):
        return Tcp.OPENING if flags & SYN else state
    if flags & Flags.FIN:
        return Tcp.CLOSING
    return Tcp.ESTABLISHED if state is Tcp.ESTABLISHED or (answer and flags & ACK) else Tcp.OPENING


@pytest.mark.parametrize("state", Tcp)
@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize("flags", [SYN, SYN_ACK, ACK, RST, RST | ACK, Flags.FIN | ACK])
def test_every_tcp_state_with_every_segment(state: Tcp, answer: bool, flags: Flags) -> None:
    way = Way.IN if answer else Way.OUT
    assert next_tcp(state, Way.OUT, way, flags) is expected_tcp(state, answer, flags)
