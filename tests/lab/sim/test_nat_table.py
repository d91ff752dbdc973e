"""The NAT x NAT table in the simulated laboratory: the whole of it, on a good day and on two bad ones."""

from collections.abc import Iterator

import pytest

from nat_table import (
    MATRIX,
    PATH_RTT_MS,
    PEER,
    SIGNAL_RTT_MS,
    TABLE,
    TCP_TABLE,
    UDP_TABLE,
    Row,
    Way,
    adverse,
    bad_day_bound_ms,
    bound_ms,
    of_presets,
    sees_any_port,
)
from warpfleet.configs.topology import PRESETS, NatSpec
from warpfleet.core.combo import AttemptOutcome, Phase, Policy, RouteType
from warpfleet.core.nat import Mapping
from warpfleet.lab.sim.world import World
from warpfleet.telemetry.records import ConnectionRow

ROWS = (*TABLE, *UDP_TABLE, *TCP_TABLE)
STUN_RTT_MS = PATH_RTT_MS / 2  # a server has no line of its own
SKEW_S = 2.0  # between the two clocks that are farthest apart, with no server to tell anybody of it


def clocks() -> dict[str, float]:
    """How far each host's clock is ahead: evenly spread, no two the same. A host and its peer are neighbours in the
    topology, and at opposite ends here."""
    names = [host.name for host in MATRIX.hosts]
    order = [*names[::2], *reversed(names[1::2])]
    return {name: SKEW_S * place / (len(order) - 1) for place, name in enumerate(order)}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(MATRIX, seed=1) as made:
        yield made


@pytest.fixture(scope="module", params=[True, False], ids=["ahead", "behind"])
def bad_day(request: pytest.FixtureRequest) -> Iterator[World]:
    """Two of them: whoever is ahead on one is as far behind on the other."""
    skew_s = clocks() if request.param else {name: SKEW_S - ahead_s for name, ahead_s in clocks().items()}
    with World(adverse(MATRIX), seed=2, skew_s=skew_s) as made:
        yield made


def connect(world: World, row: Row, policy: Policy = Policy.STAGGERED) -> ConnectionRow:
    pin = row.pin
    return world.connect(row.initiator, row.responder, policy=policy, only=pin.plugin, af=pin.af, route=pin.route)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_pair_connects_as_theory_allows_and_as_soon(world: World, row: Row) -> None:
    found = connect(world, row)
    assert found.outcome is row.way.outcome
    assert found.plugin in row.way.plugins
    assert found.connect_ms is not None
    assert found.first_byte_ms is not None
    assert found.connect_ms <= found.first_byte_ms
    assert found.connect_ms <= bound_ms(row.way, found.plugin)


@pytest.mark.parametrize("row", [row for row in TABLE if row.way is Way.RELAY], ids=str)
def test_what_cannot_be_direct_is_known_at_once_and_not_tried(world: World, row: Row) -> None:
    found = connect(world, row)
    attempts = [a for a in world.rows.attempts_ended if a.connection_id == found.connection_id]
    tried = {a.plugin for a in attempts if a.outcome is not AttemptOutcome.SKIPPED}
    assert not {a.plugin for a in attempts if a.phase in (Phase.PUNCH, Phase.SPRAY)} & tried


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_taken_for_what_it_is(world: World, name: str) -> None:
    found = world.connect(name, name + PEER)
    assert (found.initiator_nat, found.responder_nat) == (name, name)


def test_no_two_ends_of_a_pair_have_one_clock() -> None:
    ahead_s = clocks()
    apart_s = [abs(ahead_s[row.initiator] - ahead_s[row.responder]) for row in ROWS]
    assert min(apart_s) > 0
    assert max(apart_s) == SKEW_S


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_bad_day_changes_nothing_in_the_table_but_the_time(bad_day: World, row: Row) -> None:
    found = connect(bad_day, row)
    assert found.outcome is row.way.outcome
    assert found.plugin is not None
    assert found.connect_ms is not None
    assert found.connect_ms <= bad_day_bound_ms(row.way, found.plugin)


STRICT = {
    ("public", "full_cone_peer"),
    ("port_restricted", "full_cone_peer"),
    ("symmetric_random", "port_restricted_peer"),
    ("symmetric_random", "symmetric_random_peer"),
    ("udp_blocked", "public_peer"),
}


@pytest.mark.parametrize("row", [row for row in TABLE if (row.initiator, row.responder) in STRICT], ids=str)
def test_the_strict_policy_gets_there_too_phase_after_phase(world: World, row: Row) -> None:
    swift, strict = (connect(world, row, policy) for policy in (Policy.STAGGERED, Policy.STRICT))
    assert swift.outcome is strict.outcome is row.way.outcome
    assert strict.connect_ms
    assert swift.connect_ms
    # A line carries one packet after another; guesses are luck.
    assert row.way is Way.GUESS or strict.connect_ms >= swift.connect_ms - 1


def first_byte_ms(*nats: NatSpec | None) -> float:
    """Over UDP, where one end has an endpoint that stays: a signal's way there, the responder's proof, and the echo's
    round trip. A port that has to be predicted costs a STUN round trip."""
    least_ms = SIGNAL_RTT_MS / 2 + PATH_RTT_MS / 2 + PATH_RTT_MS
    seen = all(stays(nat) for nat in nats) or any(nat is None or sees_any_port(nat) for nat in nats)
    return least_ms if seen else least_ms + STUN_RTT_MS


def stays(nat: NatSpec | None) -> bool:
    """Whether a host has one endpoint for all peers."""
    return nat is None or (nat.mapping is Mapping.EIM and not nat.udp_blocked)


def over_udp() -> Iterator[tuple[Row, float]]:
    """The pairs that a UDP punch connects with a standing socket, and how soon."""
    for row in of_presets():
        nats = PRESETS[row.initiator], PRESETS[row.responder.removesuffix(PEER)]
        blocked = any(nat and nat.udp_blocked for nat in nats)
        if row.way in (Way.PUNCH, Way.DIAL, Way.MEET) and any(map(stays, nats)) and not blocked:
            yield row, first_byte_ms(*nats)


@pytest.mark.parametrize(("row", "expected_ms"), list(over_udp()), ids=str)
def test_over_udp_the_first_byte_comes_as_soon_as_physics_allow(world: World, row: Row, expected_ms: float) -> None:
    if row.way is Way.MEET:  # only then is UDP known to get out of a host that has another way
        world.connect(row.initiator, row.responder, only="udp_punch", af=4, route=RouteType.EXT)
    found = world.connect(row.initiator, row.responder, only="udp_punch", af=4, route=RouteType.EXT)
    assert found.first_byte_ms == pytest.approx(expected_ms, abs=1)
