"""Observations of every preset's NAT, and of halves of tests, to behaviours."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.classify import (
    Observations,
    classify,
    contradicted,
    filtering_of,
    leaves_doubts,
    mapping_of,
    port_assignment_of,
)
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_range import PortRange

SERVER, OTHER_IP, OTHER = (
    Endpoint("203.0.113.20", 3478),
    Endpoint("203.0.113.21", 3478),
    Endpoint("203.0.113.21", 3479),
)
OUTSIDE = "198.51.100.9"
KEPT = tuple((port, port) for port in (40001, 51234, 33000, 60999, 45678, 39999))
SEQUENCE = tuple((local, 20000 + index) for index, (local, _) in enumerate(KEPT))
SCATTERED = tuple(zip((local for local, _ in KEPT), (31337, 2048, 61000, 17123, 44044, 9001), strict=True))


def mapped(*ports: int, ip: str = OUTSIDE) -> tuple[tuple[Endpoint, Endpoint], ...]:
    return tuple((to, Endpoint(ip, port)) for to, port in zip((SERVER, OTHER_IP, OTHER), ports, strict=False))


def seen(
    ports: tuple[tuple[int, int], ...],
    external: tuple[int, ...],
    both: bool | None,
    port: bool | None,
    ip: str = OUTSIDE,
) -> Observations:
    return Observations(
        local_ips=frozenset({"192.168.1.2", "198.51.100.1"}),
        mapped=mapped(*external, ip=ip),
        ports=ports,
        change_both=both,
        change_port=port,
        hairpin=False,
    )


SAME, DIFFERENT = (5000, 5000, 5000), (5000, 5001, 5002)
PRESETS = {
    "public": seen(KEPT, SAME, True, None, ip="198.51.100.1"),
    "public_firewalled": seen(KEPT, SAME, False, False, ip="198.51.100.1"),
    "full_cone": seen(KEPT, SAME, True, None),
    "addr_restricted": seen(KEPT, SAME, False, True),
    "port_restricted": seen(KEPT, SAME, False, False),
    "eim_random_ports": seen(SCATTERED, SAME, False, False),
    "symmetric_sequential": seen(SEQUENCE, DIFFERENT, False, False),
    "symmetric_random": seen(SCATTERED, (5000, 61234, 17000), False, False),
    "udp_blocked": Observations(tcp_mapped=Endpoint(OUTSIDE, 5000)),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_recognised(preset: str) -> None:
    assert classify(PRESETS[preset]).alias == preset


def test_the_whole_behaviour_of_a_sequential_nat() -> None:
    assert classify(PRESETS["symmetric_sequential"]) == NatBehaviour(
        mapping=Mapping.APDM,
        filtering=Filtering.APDF,
        port_assignment=PortAssignment.SEQUENTIAL,
        port_delta=1,
        translated=True,
        udp=True,
    )


def test_nothing_seen_is_nothing_known() -> None:
    assert classify(Observations()) == NatBehaviour()


def test_silence_over_udp_alone_does_not_prove_that_udp_is_blocked() -> None:
    assert classify(Observations(local_ips=frozenset({"10.0.0.1"}))).udp is None


def test_a_host_without_udp_still_learns_whether_it_is_translated() -> None:
    blocked = classify(Observations(local_ips=frozenset({"10.0.0.1"}), tcp_mapped=Endpoint(OUTSIDE, 1)))
    assert (blocked.udp, blocked.translated) == (False, True)


@pytest.mark.parametrize(
    ("heard", "hairpin"),
    [(True, True), (False, False), (None, None)],
)
def test_hairpinning_is_reported_for_endpoint_independent_mappings(heard: bool | None, hairpin: bool | None) -> None:
    assert classify(replace(PRESETS["full_cone"], hairpin=heard)).hairpin is hairpin


def test_hairpinning_that_fails_proves_nothing_where_mappings_depend_on_the_destination() -> None:
    assert classify(replace(PRESETS["symmetric_random"], hairpin=False)).hairpin is None


def test_hairpinning_is_no_question_without_translation() -> None:
    assert classify(replace(PRESETS["public"], hairpin=True)).hairpin is None


@pytest.mark.parametrize(
    ("external", "mapping"),
    [
        ((5000,), Mapping.UNKNOWN),
        ((5000, 5000), Mapping.EIM),
        ((5000, 6000), Mapping.APDM),
        ((5000, 5000, 5000), Mapping.EIM),
        ((5000, 6000, 6000), Mapping.ADM),
        ((5000, 6000, 7000), Mapping.APDM),
        ((5000, 5000, 7000), Mapping.APDM),
    ],
)
def test_mapping(external: tuple[int, ...], mapping: Mapping) -> None:
    assert mapping_of(mapped(*external)) is mapping


def test_one_port_at_different_external_addresses_is_no_endpoint_independent_mapping() -> None:
    assert mapping_of([(SERVER, Endpoint("198.51.100.9", 5000)), (OTHER_IP, Endpoint("198.51.100.10", 5000))]) is (
        Mapping.APDM
    )


@pytest.mark.parametrize("both", [True, False, None])
@pytest.mark.parametrize("port", [True, False, None])
def test_filtering(both: bool | None, port: bool | None) -> None:
    expected = {
        (False, True): Filtering.ADF,
        (False, False): Filtering.APDF,
    }
    assert filtering_of(both, port) is (Filtering.EIF if both else expected.get((both, port), Filtering.UNKNOWN))


def test_too_few_ports_show_no_pattern() -> None:
    assert port_assignment_of(SEQUENCE[:3]) == (PortAssignment.UNKNOWN, None)


def test_one_port_that_could_not_be_kept_leaves_a_nat_preserving() -> None:
    assert port_assignment_of((*KEPT[:5], (KEPT[5][0], 1024))) == (PortAssignment.PRESERVING, None)


steps = st.integers(1, 16) | st.integers(-16, -1) | st.sampled_from([256, -256])


@given(delta=steps, start=st.integers(0, 65535))
def test_a_sequence_is_found_from_any_start(delta: int, start: int) -> None:
    ports = [(1, (start + index * delta) % 65536) for index in range(6)]
    assert port_assignment_of(ports) == (PortAssignment.SEQUENTIAL, delta)


@given(delta=st.integers(1, 8), others=st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_a_sequence_is_found_among_the_mappings_of_others(delta: int, others: list[int]) -> None:
    externals = [20000]
    for taken in (*others[:4], 0):
        externals.append(externals[-1] + delta * (1 + taken))
    assert port_assignment_of([(1, port) for port in externals]) == (PortAssignment.SEQUENTIAL, delta)


@given(delta=st.integers(1, 16), at=st.integers(1, 5))
def test_a_sequence_is_found_across_the_allocators_end(delta: int, at: int) -> None:
    ports = [40000 + index * delta if index < at else 1024 + (index - at) * delta for index in range(6)]
    assert port_assignment_of([(1, port) for port in ports]) == (PortAssignment.SEQUENTIAL, delta)


@given(at=st.integers(0, 4), delta=steps)
def test_a_sequence_is_found_where_two_packets_overtook_each_other(at: int, delta: int) -> None:
    ports = [30000 + index * delta for index in range(6)]
    ports[at], ports[at + 1] = ports[at + 1], ports[at]
    assert port_assignment_of([(1, port) for port in ports]) == (PortAssignment.SEQUENTIAL, delta)


@given(st.integers(0, 1_000_000))
def test_random_ports_are_no_sequence(seed: int) -> None:
    ports = Random(seed).sample(range(1024, 65536), 6)
    assert port_assignment_of([(1, port) for port in ports]) == (PortAssignment.RANDOM, None)


def of_block(seed: int, size: int) -> Observations:
    """What is seen of a NAT that draws from a block: first, and, where that leaves doubts, after another look."""
    rng = Random(seed)
    first = rng.randint(1024, 65536 - size)
    ports = rng.sample(range(first, first + size), 17)
    looked = seen(tuple((1, port) for port in ports[:6]), tuple(ports[6:9]), False, False)
    return replace(looked, more_ports=tuple((1, port) for port in ports[9:])) if leaves_doubts(looked) else looked


@pytest.mark.parametrize("size", [64, 128, 256, 512, 1024, 4096, 16_384])
def test_random_ports_of_a_block_are_no_sequence(size: int) -> None:
    """A first look alone takes all blocks of 64 ports, and one in seventy of 1,024, for a sequence."""
    found = [classify(of_block(seed, size)) for seed in range(1000)]
    assert sum(nat.port_assignment is PortAssignment.RANDOM for nat in found) >= 970
    assert all((nat.port_range is not None) == (nat.port_assignment is PortAssignment.RANDOM) for nat in found)


def test_the_block_has_all_ports_that_were_seen() -> None:
    looked = of_block(1, 1024)
    ports = looked.external_ports
    assert len(ports) == 17
    assert classify(looked).port_range == PortRange(min(ports), max(ports))


@given(
    delta=st.integers(1, 8) | st.integers(-8, -1),
    taken=st.lists(st.integers(0, 3), min_size=14, max_size=14),
    between=st.integers(0, 5000),
    overtaken=st.sets(st.integers(0, 11), max_size=2),
)
def test_another_look_does_not_make_a_sequence_random(
    delta: int, taken: list[int], between: int, overtaken: set[int]
) -> None:
    """Others open mappings before each of ours, any number of them between the two looks, and packets overtake."""
    steps = [1 + others for others in taken]
    steps[6] += between
    ports = [(1, 30_000 + delta * sum(steps[: index + 1])) for index in range(14)]
    alone = port_assignment_of(ports[:6])
    for at in overtaken - {5}:
        ports[at], ports[at + 1] = ports[at + 1], ports[at]
    if port_assignment_of(ports[:6])[0] is PortAssignment.SEQUENTIAL:
        assert port_assignment_of(ports[:6], ports[6:]) == port_assignment_of(ports[:6])
    assert port_assignment_of(ports[:6]) == alone or overtaken


@given(st.randoms(), st.integers(1, 4))
def test_another_look_at_a_sequence_in_any_order_does_not_make_it_random(shuffling: Random, delta: int) -> None:
    """Where nobody else opens mappings, they lie side by side, however the packets overtook each other."""
    ports = [(1, 30_000 + index * delta) for index in range(14)]
    first, more = ports[:6], ports[6:]
    shuffling.shuffle(first)
    shuffling.shuffle(more)
    assert port_assignment_of(first, more)[0] is PortAssignment.SEQUENTIAL


@pytest.mark.parametrize(
    ("look", "doubts"),
    [
        (PRESETS["symmetric_sequential"], False),
        (PRESETS["symmetric_random"], False),
        (PRESETS["eim_random_ports"], False),
        (PRESETS["port_restricted"], False),
        (Observations(), False),
        (replace(PRESETS["eim_random_ports"], ports=tuple((1, port) for port in range(20_000, 20_600, 100))), False),
        (replace(PRESETS["symmetric_sequential"], ports=(*SEQUENCE[:3], (1, 20_007), *SEQUENCE[3:])), True),
        (
            seen(
                tuple((1, 40_000 + port) for port in (7, 903, 411, 77, 650, 222)),
                (40_001, 40_500, 40_999),
                *[False] * 2,
            ),
            True,
        ),
    ],
)
def test_only_what_depends_on_the_destination_leaves_doubts(look: Observations, doubts: bool) -> None:
    assert leaves_doubts(look) is doubts


endpoints = st.builds(Endpoint, st.sampled_from(["203.0.113.1", "203.0.113.2"]), st.integers(1, 3))
flags = st.none() | st.booleans()


@given(
    st.builds(
        Observations,
        local_ips=st.frozensets(st.sampled_from(["203.0.113.1", "10.0.0.1"])),
        mapped=st.lists(st.tuples(endpoints, endpoints), unique_by=lambda pair: pair[0]).map(tuple),
        ports=st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535)), max_size=6).map(tuple),
        change_both=flags,
        change_port=flags,
        hairpin=flags,
        tcp_mapped=st.none() | endpoints,
    )
)
def test_whatever_was_seen_nothing_is_claimed_without_its_test(seen: Observations) -> None:
    behaviour = classify(seen)
    assert (behaviour.udp is True) == bool(seen.mapped)
    assert behaviour.udp is not False or seen.tcp_mapped is not None
    assert (behaviour.translated is None) == (seen.external_ip is None)
    if not seen.mapped:
        assert (behaviour.mapping, behaviour.filtering) == (Mapping.UNKNOWN, Filtering.UNKNOWN)
    if seen.change_both is None:
        assert behaviour.filtering is Filtering.UNKNOWN
    assert (behaviour.port_delta is not None) == (behaviour.port_assignment is PortAssignment.SEQUENTIAL)


# What a check, a handful of packets, sees of each kind of NAT: the ports of one socket's mappings, and its two answers.
PRIVATE, PUBLIC = "192.168.1.2", "198.51.100.1"
CHECKS: dict[str, tuple[NatBehaviour, Observations]] = {}


def _add(
    name: str,
    mapping: Mapping,
    filtering: Filtering,
    ports: PortAssignment,
    *,
    external: tuple[int, int],
    admitted: tuple[bool, bool],
    delta: int | None = None,
    translated: bool = True,
) -> None:
    behaviour = NatBehaviour(
        mapping=mapping,
        filtering=filtering,
        port_assignment=ports,
        port_delta=delta,
        hairpin=True,
        lifetime_s=300,
        translated=translated,
        udp=True,
    )
    ip = OUTSIDE if translated else PUBLIC
    CHECKS[name] = behaviour, seen(((40001, external[0]),), external, *admitted, ip=ip)


M, F, P = Mapping, Filtering, PortAssignment
_add("public", M.EIM, F.EIF, P.PRESERVING, external=(40001, 40001), admitted=(True, True), translated=False)
_add(
    "public_firewalled", M.EIM, F.APDF, P.PRESERVING, external=(40001, 40001), admitted=(False, False), translated=False
)
_add("full_cone", M.EIM, F.EIF, P.PRESERVING, external=(40001, 40001), admitted=(True, True))
_add("addr_restricted", M.EIM, F.ADF, P.PRESERVING, external=(40001, 40001), admitted=(False, True))
_add("port_restricted", M.EIM, F.APDF, P.PRESERVING, external=(40001, 40001), admitted=(False, False))
_add("eim_random_ports", M.EIM, F.APDF, P.RANDOM, external=(31337, 31337), admitted=(False, False))
_add("symmetric_sequential", M.APDM, F.APDF, P.SEQUENTIAL, external=(20000, 20001), admitted=(False, False), delta=1)
_add("symmetric_random", M.APDM, F.APDF, P.RANDOM, external=(31337, 2048), admitted=(False, False))
CHECKS["udp_blocked"] = (
    NatBehaviour(translated=True, udp=False),
    Observations(local_ips=frozenset({PRIVATE}), tcp_mapped=Endpoint(OUTSIDE, 5)),
)


@pytest.mark.parametrize("known", CHECKS)
@pytest.mark.parametrize("met", CHECKS)
def test_a_check_is_passed_by_the_known_nat_alone(known: str, met: str) -> None:
    assert contradicted(CHECKS[known][0], CHECKS[met][1]) is (known != met)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "udp_blocked"])
def test_a_lost_packet_never_confirms(name: str) -> None:
    known, met = CHECKS[name]
    lost = [replace(met, mapped=met.mapped[:1])] if known.translated else []
    if met.change_both:
        lost.append(replace(met, change_both=False))
    if met.change_port:
        lost.append(replace(met, change_port=False))
    assert all(contradicted(known, one) for one in lost)


@pytest.mark.parametrize(
    ("ports", "plausible"), [((40_100, 40_105), True), ((39_700, 41_200), True), ((40_100, 52_000), False)]
)
def test_of_a_known_block_only_ports_around_it_are_plausible(ports: tuple[int, int], plausible: bool) -> None:
    known = replace(CHECKS["symmetric_random"][0], port_range=PortRange(40_050, 40_950))
    assert contradicted(known, seen(((40_001, ports[0]),), ports, False, False)) is not plausible


@given(st.integers(1024, 65535), st.integers(1024, 65535), st.integers(1, 64))
def test_of_a_sequential_allocator_only_steps_are_plausible(first: int, second: int, delta: int) -> None:
    known = replace(CHECKS["symmetric_sequential"][0], port_delta=delta)
    met = seen(((1, first),), (first, second), False, False)
    gap = min((first - second) % 65536, (second - first) % 65536)
    assert contradicted(known, met) is (gap == 0 or gap % delta != 0 or gap > max(64, 4 * delta))
