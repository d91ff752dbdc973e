"""The whole NAT x NAT table, as the theory has it."""

import pytest

from warpfleet.configs.topology import PRESETS
from warpfleet.core.combo import Combo, Reason, RouteType
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.pairing import DIALS, Kind, Requirement, impossible, is_long_shot, kind_of, ruled_out
from warpfleet.core.peer import PeerView

OPEN = NatBehaviour(translated=False, filtering=Filtering.EIF, mapping=Mapping.EIM, udp=True)
BEHAVIOURS = {name: spec.behaviour if spec else OPEN for name, spec in PRESETS.items()}
KINDS = {
    "public": Kind.EASY,
    "public_firewalled": Kind.PORT_FILTERED,
    "full_cone": Kind.EASY,
    "addr_restricted": Kind.EASY,
    "port_restricted": Kind.PORT_FILTERED,
    "eim_random_ports": Kind.PORT_FILTERED,
    "symmetric_sequential": Kind.SEQUENTIAL,
    "symmetric_random": Kind.RANDOM,
    "udp_blocked": Kind.BLOCKED,
}
# Rows: ours; columns: theirs.
PUNCHED = """
      E P Q R B
    E + + + + b
    P + + + - b
    Q + + + - b
    R + - - - b
    B b b b b b
    """
TABLES = {
    Requirement.PUNCHABLE: PUNCHED,
    Requirement.TCP_PUNCHABLE: PUNCHED,
    Requirement.GUESSABLE: """
      E P Q R B
    E - - - - b
    P - - - + b
    Q - - - - b
    R - + - - b
    B b b b b b
    """,
}


def expected(requirement: Requirement, mine: Kind, theirs: Kind) -> Reason | None:
    head, *rows = (line.split() for line in TABLES[requirement].strip().splitlines())
    cells = {(row[0], column): cell for row in rows for column, cell in zip(head, row[1:], strict=True)}
    return {"+": None, "-": Reason.NAT_RULES_OUT, "b": Reason.UDP_BLOCKED}[cells[mine.value, theirs.value]]


EVERY_PAIR = [(a, b) for a in PRESETS for b in PRESETS]


def node(name: str, nat: NatBehaviour | None, number: int) -> PeerView:
    """A node behind an external address of its own, all private subnets alike."""
    external = f"198.51.100.{number}"
    open_ = nat is not None and nat.translated is False
    return PeerView(
        name=name,
        machine=name,
        interfaces=(Interface("eth0", external if open_ else "192.168.1.2", 24),),
        listeners=(Endpoint("0.0.0.0", 443),),
        external={4: external},
        nat={4: nat} if nat else {},
        relay=True,
    )


def verdict(requirement: Requirement, a: NatBehaviour | None, b: NatBehaviour | None) -> Reason | None:
    """What the planner says of an attempt over the external addresses."""
    combo, mine, theirs = Combo("p", 4, RouteType.EXT), node("a", a, 1), node("b", b, 2)
    assert impossible(requirement, combo, mine, theirs) is None
    return ruled_out(requirement, combo, mine, theirs)


def unlikely(requirement: Requirement, a: NatBehaviour | None, b: NatBehaviour | None) -> bool:
    """Whether the planner takes such an attempt for a long shot."""
    return is_long_shot(requirement, Combo("p", 4, RouteType.EXT), node("a", a, 1), node("b", b, 2))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_kind_of_each_preset(preset: str) -> None:
    assert kind_of(BEHAVIOURS[preset]) is KINDS[preset]


@pytest.mark.parametrize(("mine", "theirs"), EVERY_PAIR)
def test_a_direct_connect_is_a_long_shot_towards_all_but_public_hosts(mine: str, theirs: str) -> None:
    assert verdict(Requirement.PEER_REACHABLE, BEHAVIOURS[mine], BEHAVIOURS[theirs]) is None
    assert unlikely(Requirement.PEER_REACHABLE, BEHAVIOURS[mine], BEHAVIOURS[theirs]) is (theirs != "public")


@pytest.mark.parametrize(("mine", "theirs"), EVERY_PAIR)
def test_a_reverse_connect_is_a_long_shot_for_all_but_public_initiators(mine: str, theirs: str) -> None:
    assert verdict(Requirement.SELF_REACHABLE, BEHAVIOURS[mine], BEHAVIOURS[theirs]) is None
    assert unlikely(Requirement.SELF_REACHABLE, BEHAVIOURS[mine], BEHAVIOURS[theirs]) is (mine != "public")


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != "public"])
@pytest.mark.parametrize("requirement", DIALS)
def test_a_mapped_port_is_no_long_shot_but_from_behind_the_same_nat(requirement: Requirement, preset: str) -> None:
    ends = node("a", BEHAVIOURS[preset], 1), node("b", BEHAVIOURS[preset], 2)
    target = ends[requirement is Requirement.PEER_REACHABLE]
    mapped = target.with_mapped([Endpoint(target.external[4], 5555)])
    mine, theirs = (mapped if end is target else end for end in ends)
    assert is_long_shot(requirement, Combo("p", 4, RouteType.EXT), mine, theirs) is False
    assert is_long_shot(requirement, Combo("p", 4, RouteType.EXT), mapped, mapped)


@pytest.mark.parametrize("requirement", TABLES)
@pytest.mark.parametrize(("mine", "theirs"), EVERY_PAIR)
def test_a_technique_reaches_what_theory_allows(requirement: Requirement, mine: str, theirs: str) -> None:
    found = verdict(requirement, BEHAVIOURS[mine], BEHAVIOURS[theirs])
    assert found == expected(requirement, KINDS[mine], KINDS[theirs])


@pytest.mark.parametrize(("mine", "theirs"), EVERY_PAIR)
def test_a_relay_is_never_ruled_out(mine: str, theirs: str) -> None:
    assert verdict(Requirement.RELAY, BEHAVIOURS[mine], BEHAVIOURS[theirs]) is None
    assert verdict(Requirement.SIGNAL, BEHAVIOURS[mine], BEHAVIOURS[theirs]) is None


def test_guesses_are_tried_where_it_is_not_known_whom_the_steady_end_lets_in() -> None:
    unknown = NatBehaviour(mapping=Mapping.EIM, translated=True, udp=True)
    assert verdict(Requirement.GUESSABLE, unknown, BEHAVIOURS["symmetric_random"]) is None
    assert verdict(Requirement.GUESSABLE, BEHAVIOURS["symmetric_random"], unknown) is None


@pytest.mark.parametrize("requirement", list(Requirement))
def test_what_is_unknown_is_tried_unless_it_costs_hundreds_of_packets(requirement: Requirement) -> None:
    assert verdict(requirement, None, None) is (Reason.NAT_RULES_OUT if requirement is Requirement.GUESSABLE else None)
    assert not unlikely(requirement, None, None)


@pytest.mark.parametrize("requirement", [r for r in Requirement if r not in DIALS])
@pytest.mark.parametrize(("mine", "theirs"), EVERY_PAIR)
def test_only_a_tcp_connect_is_ever_a_long_shot(requirement: Requirement, mine: str, theirs: str) -> None:
    assert not unlikely(requirement, BEHAVIOURS[mine], BEHAVIOURS[theirs])


@pytest.mark.parametrize("known", [name for name in PRESETS if name != "udp_blocked"])
def test_an_unknown_side_may_be_easy(known: str) -> None:
    assert verdict(Requirement.PUNCHABLE, None, BEHAVIOURS[known]) is None
    assert verdict(Requirement.PUNCHABLE, BEHAVIOURS[known], None) is None


@pytest.mark.parametrize(
    ("nat", "kind"),
    [
        (NatBehaviour(), Kind.UNKNOWN),
        (NatBehaviour(mapping=Mapping.EIM), Kind.UNKNOWN),
        (NatBehaviour(translated=False), Kind.UNKNOWN),
        (NatBehaviour(filtering=Filtering.APDF), Kind.UNKNOWN),
        (NatBehaviour(mapping=Mapping.ADM), Kind.RANDOM),
        (NatBehaviour(mapping=Mapping.ADM, port_assignment=PortAssignment.SEQUENTIAL), Kind.SEQUENTIAL),
        (NatBehaviour(mapping=Mapping.APDM, udp=False), Kind.BLOCKED),
    ],
)
def test_the_kind_where_little_is_known(nat: NatBehaviour, kind: Kind) -> None:
    assert kind_of(nat) is kind


@pytest.mark.parametrize("requirement", list(Requirement))
@pytest.mark.parametrize("route", [RouteType.NIC, RouteType.LOOPBACK])
def test_nats_are_no_obstacle_inside_one_network(requirement: Requirement, route: RouteType) -> None:
    worst = BEHAVIOURS["udp_blocked"]
    combo, mine, theirs = Combo("p", 4, route), node("a", worst, 1), node("b", worst, 1)
    assert ruled_out(requirement, combo, mine, theirs) is None
    assert not is_long_shot(requirement, combo, mine, theirs)


def test_reverse_connect_asks_for_our_listener_not_for_theirs() -> None:
    deaf = PeerView(
        name="deaf", machine="deaf", interfaces=(Interface("e", "203.0.113.1", 24),), external={4: "203.0.113.1"}
    )
    listening, combo = node("a", OPEN, 1), Combo("p", 4, RouteType.EXT)
    assert impossible(Requirement.SELF_REACHABLE, combo, listening, deaf) is None
    assert impossible(Requirement.SELF_REACHABLE, combo, deaf, listening) is Reason.NOT_LISTENING
    assert impossible(Requirement.PEER_REACHABLE, combo, listening, deaf) is Reason.NOT_LISTENING


@pytest.mark.parametrize("blocked", ["mine", "theirs"])
def test_a_relay_needs_no_external_address(blocked: str) -> None:
    """Where UDP is blocked and no STUN server answers over TCP, the external address stays unknown."""
    hidden = PeerView(name="h", machine="h", interfaces=(Interface("e", "10.0.0.2", 24),), relay=True)
    pair = (hidden, node("b", OPEN, 2)) if blocked == "mine" else (node("b", OPEN, 2), hidden)
    assert impossible(Requirement.RELAY, Combo("turn", 4, RouteType.EXT), *pair) is None


def test_a_listener_behind_one_nat_with_us_is_not_ruled_out_by_that_nat() -> None:
    combo = Combo("fan_out", 4, RouteType.EXT)
    home = {"machine": "m", "interfaces": (Interface("eth0", "192.168.1.2", 24),), "external": {4: "198.51.100.1"}}
    nat = {4: BEHAVIOURS["port_restricted"]}
    mine = PeerView(name="mine", nat=nat, **home)  # type: ignore[arg-type]
    theirs = PeerView(name="theirs", nat=nat, listeners=(Endpoint("0.0.0.0", 443),), **home)  # type: ignore[arg-type]
    assert impossible(Requirement.PEER_LISTENING, combo, mine, theirs) is None
    assert ruled_out(Requirement.PEER_LISTENING, combo, mine, theirs) is None
    assert impossible(Requirement.PEER_LISTENING, combo, theirs, mine) is Reason.NOT_LISTENING
