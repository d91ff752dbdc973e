"""NAT x NAT: every ordered pair of presets, in the simulated laboratory, against what theory allows."""

from collections.abc import Iterator

import pytest

from warpfleet.configs.topology import PRESETS, PUBLIC, Topology
from warpfleet.core.combo import ConnectionOutcome, Policy
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.lab.sim.world import World

PEER = "_peer"
DIRECT, RELAYED = ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED
PAIRS = [(a, b) for a in PRESETS for b in PRESETS]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One host behind each preset, and one more of each to connect to."""
    hosts = [{"name": name + end, "nat": name, "delay_ms": 20} for name in PRESETS for end in ("", PEER)]
    topology = Topology.model_validate({"version": 1, "name": "table", "hosts": hosts})
    with World(topology, seed=1) as made:
        yield made


def expected(initiator: str, responder: str) -> tuple[ConnectionOutcome, str]:
    """The outcome and the plugin: what comes in over TCP, what can be punched, and else a relay."""
    mine, theirs = PRESETS[initiator], PRESETS[responder]
    if theirs is None:
        return DIRECT, "direct_connect"
    if mine is None:
        return DIRECT, "reverse_connect"
    if mine.udp_blocked or theirs.udp_blocked:
        return RELAYED, "turn"
    random = [n for n in (mine, theirs) if n.mapping is not Mapping.EIM and n.port_assignment is PortAssignment.RANDOM]
    easy = [nat for nat in (mine, theirs) if nat.mapping is Mapping.EIM and nat.filtering is not Filtering.APDF]
    if not random or easy:
        return DIRECT, "udp_punch"
    steady = any(nat.mapping is Mapping.EIM for nat in (mine, theirs))
    return (DIRECT, "random_probe") if steady else (RELAYED, "turn")


@pytest.mark.parametrize(("initiator", "responder"), PAIRS)
def test_every_pair_connects_as_theory_allows(world: World, initiator: str, responder: str) -> None:
    row = world.connect(initiator, responder + PEER)
    assert (row.outcome, row.plugin) == expected(initiator, responder)
    assert (row.initiator_nat, row.responder_nat) == (initiator, responder)
    assert row.connect_ms
    assert row.first_byte_ms
    assert row.connect_ms < row.first_byte_ms


@pytest.mark.parametrize(
    ("initiator", "responder"),
    [
        (PUBLIC, "full_cone"),
        ("port_restricted", "full_cone"),
        ("symmetric_random", "port_restricted"),
        ("udp_blocked", PUBLIC),
    ],
)
def test_the_strict_policy_gets_there_too_phase_after_phase(world: World, initiator: str, responder: str) -> None:
    swift, strict = (
        world.connect(initiator, responder + PEER, policy=policy) for policy in (Policy.STAGGERED, Policy.STRICT)
    )
    assert (swift.outcome, swift.plugin) == expected(initiator, responder)
    assert (strict.outcome, strict.plugin) in (expected(initiator, responder), (DIRECT, "tcp_punch"))
    assert strict.connect_ms
    assert swift.connect_ms
    assert strict.connect_ms >= swift.connect_ms - 1  # a line carries one packet after another
