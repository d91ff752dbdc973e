"""Whole connections in the simulated laboratory: the roles and the plugins as they are, on virtual time."""

import asyncio
import statistics
import subprocess
import sys
import time
from typing import Any

import pytest

from warpfleet.configs.topology import Topology, find_topology
from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Policy, Reason, RouteType, Side, Transport
from warpfleet.lab.sim.world import EPOCH_S, World
from warpfleet.telemetry.records import ConnectionRow

DIRECT, RELAYED = ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED
DEFAULT = find_topology("default")


def pair(first: str, second: str | dict[str, Any], *, broker_delay_ms: float = 0.0, **line: float) -> Topology:
    """Two hosts, each on a line of this quality: of their path, this is half."""
    hosts = [{"name": name, "nat": nat, "delay_ms": 20, **line} for name, nat in (("a", first), ("b", second))]
    lab = {"version": 1, "name": "pair", "broker_delay_ms": broker_delay_ms, "hosts": hosts}
    return Topology.model_validate(lab)


def connect(topology: Topology, a: str, b: str, *, policy: Policy = Policy.STAGGERED, **world: Any) -> ConnectionRow:
    with World(topology, **world) as made:
        return made.connect(a, b, policy=policy)


def test_a_direct_connection_takes_as_many_round_trips_as_it_must() -> None:
    row = connect(pair("full_cone", "public"), "a", "b")
    assert (row.outcome, row.plugin, row.remote_endpoint) == (DIRECT, "direct_connect", "198.18.0.2:443")
    assert row.connect_ms == pytest.approx(2 * 80, abs=0.1)  # SYN, and HELLO and PROOF by signal meanwhile; TAKE
    assert row.first_byte_ms == pytest.approx(2 * 80, abs=0.1)  # that goes along with TAKE
    assert row.rtt_ms == pytest.approx(80, abs=0.1)
    assert row.started_at.timestamp() >= EPOCH_S


def test_a_host_that_anybody_reaches_is_met_over_udp_at_once() -> None:
    with World(pair("full_cone", "public")) as world:
        rows = [world.connect("b", "a") for _ in range(2)]
    assert [(row.outcome, row.plugin) for row in rows] == [(DIRECT, "udp_punch")] * 2
    first, later = (row.first_byte_ms for row in rows)
    assert first == pytest.approx(3 * 80, abs=0.1)  # a signal's way, PROOF; TAKE and AGREED; the echo
    assert later == pytest.approx(2 * 80, abs=0.1)  # TAKE with the first byte


def test_a_peer_without_udp_dials_back_which_takes_a_round_trip_more() -> None:
    row = connect(pair("udp_blocked", "public"), "b", "a")
    assert (row.outcome, row.plugin) == (DIRECT, "reverse_connect")
    assert row.connect_ms == pytest.approx(3 * 80, abs=0.1)  # signal, SYN, SYN-ACK, PROOF; TAKE
    assert row.first_byte_ms == pytest.approx(3 * 80, abs=0.1)  # that goes along with TAKE


def test_behind_a_broker_that_is_far_away_a_stream_greets_by_itself() -> None:
    row = connect(pair("full_cone", "public", broker_delay_ms=60), "a", "b")
    assert (row.outcome, row.plugin) == (DIRECT, "direct_connect")
    assert row.first_byte_ms == pytest.approx(4 * 80, abs=0.1)  # SYN, as long again in vain, HELLO and PROOF, the echo


def test_both_sides_of_the_winning_attempt_have_a_row() -> None:
    with World(pair("port_restricted", "eim_random_ports")) as world:
        row = world.connect("a", "b")
        attempts = [a for a in world.rows.attempts_ended if a.connection_id == row.connection_id]
    assert world.rows.connections_ended == [row]
    won = {a.side: a for a in attempts if a.outcome is AttemptOutcome.WON}
    assert won.keys() == set(Side)
    assert {a.plugin for a in won.values()} == {"udp_punch"}
    assert all(a.packets_sent for a in won.values())


def test_one_technique_can_be_pinned() -> None:
    with World(pair("full_cone", "public")) as world:
        assert world.connect("a", "b", only="turn").outcome is RELAYED
        assert world.connect("b", "a", only="direct_connect").reason is Reason.ONLY_LONG_SHOTS


@pytest.mark.parametrize(("block", "most"), [([40_000, 41_023], 100), (None, 600)])
def test_random_ports_are_guessed_with_few_packets(block: list[int] | None, most: int) -> None:
    packets = []
    with World(pair("port_restricted", {"preset": "symmetric_random", "port_range": block})) as world:
        for ends in [("a", "b"), ("b", "a")] * 15:
            row = world.connect(*ends, only="random_probe")
            assert (row.outcome, row.connect_ms and row.connect_ms < 15_000) == (DIRECT, True)
            attempts = [a for a in world.rows.attempts_ended if a.connection_id == row.connection_id]
            packets.append(sum(a.packets_sent or 0 for a in attempts if a.outcome is AttemptOutcome.WON))
    assert statistics.median(packets) < most


@pytest.mark.parametrize(
    ("a", "b"),
    [("symmetric_random", "symmetric_random"), ("symmetric_sequential", "symmetric_random")],
)
def test_where_nothing_can_be_guessed_nothing_is_sprayed(a: str, b: str) -> None:
    with World(pair(a, b)) as world:
        for ends in (("a", "b"), ("b", "a")):
            row = world.connect(*ends, only="random_probe")
            assert row.outcome is ConnectionOutcome.FAILED
            attempts = [a for a in world.rows.attempts_ended if a.connection_id == row.connection_id]
            assert {a.outcome for a in attempts} == {AttemptOutcome.SKIPPED}
            assert {a.reason for a in attempts if (a.af, a.route_type) == (4, "ext")} == {Reason.NAT_RULES_OUT}


@pytest.mark.parametrize(("a", "b"), [("port_restricted", "full_cone"), ("eim_random_ports", "port_restricted")])
def test_tcp_is_punched_where_that_is_pinned(a: str, b: str) -> None:
    with World(pair(a, b)) as world:
        rows = [world.connect(*ends, only="tcp_punch") for ends in (("a", "b"), ("b", "a"))]
    assert [(row.outcome, row.plugin, row.transport) for row in rows] == [(DIRECT, "tcp_punch", Transport.TCP)] * 2


def test_a_peer_can_be_asked_for_its_address_record() -> None:
    with World(pair("full_cone", "public")) as world:
        assert world.connect("a", "b", only="get_addr", af=4).reason is Reason.ALL_FAILED
    ends = [(attempt.plugin, attempt.reason) for attempt in world.rows.attempts_ended]
    assert sorted(ends) == [("get_addr", Reason.REFRESHED), ("return_addr", Reason.REFRESHED)]


def test_behind_a_carrier_two_homes_meet() -> None:
    with World(find_topology("cgn")) as world:
        rows = [
            world.connect(a, b) for a, b in (("one", "outside"), ("outside", "two"), ("one", "two"), ("two", "public"))
        ]
    assert [(row.outcome, row.plugin) for row in rows] == [
        (DIRECT, "udp_punch"),
        (DIRECT, "udp_punch"),
        (DIRECT, "udp_punch"),
        (DIRECT, "direct_connect"),
    ]


def test_nodes_of_one_machine_meet_on_it() -> None:
    hosts = [{"name": "a", "nat": "symmetric_random", "delay_ms": 20}, {"name": "b", "beside": "a"}]
    with World(Topology.model_validate({"version": 1, "name": "machine", "hosts": hosts})) as world:
        row = world.connect("a", "b", route=RouteType.LOOPBACK)
    assert (row.plugin, row.outcome) == ("direct_connect", DIRECT)


def test_hosts_of_one_home_meet_inside_it() -> None:
    with World(find_topology("home")) as world:
        row = world.connect("desktop", "laptop")
    assert (row.plugin, row.route_type, row.outcome) == ("direct_connect", "nic", DIRECT)


def test_ipv6_is_firewalled_where_ipv4_is_translated() -> None:
    with World(find_topology("dual-stack")) as world:
        six = world.connect("firewalled_symmetric", "firewalled", af=6)
        four = world.connect("firewalled_symmetric", "firewalled", af=4)
        opened = world.connect("firewalled", "open", af=6)
        none = world.connect("firewalled", "four_only", af=6)
    assert (six.af, six.plugin, six.outcome) == (6, "udp_punch", DIRECT)
    assert (four.af, four.plugin, four.outcome) == (4, "random_probe", DIRECT)
    assert (opened.plugin, opened.outcome) == ("direct_connect", DIRECT)
    assert (none.outcome, none.reason) == (ConnectionOutcome.FAILED, Reason.NOTHING_TO_TRY)


@pytest.mark.parametrize("seed", range(5))
def test_loss_and_jitter_cost_time_and_not_the_connection(seed: int) -> None:
    nats = "port_restricted", "addr_restricted"
    rough = connect(pair(*nats, loss=0.05, jitter_ms=15), "a", "b", seed=seed)
    smooth = connect(pair(*nats), "a", "b", seed=seed)
    assert rough.outcome in (DIRECT, RELAYED)
    assert rough.connect_ms
    assert smooth.connect_ms
    assert rough.connect_ms > smooth.connect_ms


def test_tcp_carries_a_connection_through_loss() -> None:
    with World(pair("full_cone", "public", loss=0.075), seed=3) as world:
        rows = [world.connect("a", "b", only="direct_connect") for _ in range(10)]
    assert [row.outcome for row in rows].count(DIRECT) >= 9


@pytest.mark.parametrize("late_ms", [200, 1500])
def test_signals_that_are_late_make_a_punch_late(late_ms: int) -> None:
    row = connect(pair("port_restricted", "port_restricted", broker_delay_ms=late_ms / 2), "a", "b")
    assert row.outcome in (DIRECT, RELAYED)
    assert row.connect_ms
    assert row.connect_ms > late_ms, "between standing sockets it waits for the offer alone"


def test_a_path_that_dies_right_behind_the_proof_costs_three_seconds_and_not_the_connection() -> None:
    async def cut_soon() -> None:
        asyncio.get_running_loop().call_later(0.085, world.cut, "a", "b")  # TAKE is under way, and the pipe in use

    with World(pair("port_restricted", "port_restricted")) as world:
        world.run(cut_soon())
        row = world.connect("a", "b")
    ends = {(attempt.plugin, attempt.side, attempt.outcome) for attempt in world.rows.attempts_ended}
    assert ("udp_punch", Side.INITIATOR, AttemptOutcome.TIMEOUT) in ends
    assert (row.outcome, row.plugin) == (RELAYED, "turn")
    assert row.connect_ms
    assert 3_000 < row.connect_ms < 3_500


def test_signals_that_are_lost_are_said_again() -> None:
    row = connect(pair("port_restricted", "port_restricted"), "a", "b", signal_loss=0.4, seed=5)
    assert row.outcome in (DIRECT, RELAYED)


@pytest.mark.parametrize(("skew_s", "plugin"), [(100.0, "direct_connect"), (600.0, "udp_punch")])
def test_a_clock_that_is_minutes_off_closes_the_door_to_streams(skew_s: float, plugin: str) -> None:
    row = connect(pair("full_cone", "public"), "a", "b", skew_s={"a": skew_s})
    assert (row.plugin, row.outcome) == (plugin, DIRECT)
    assert row.started_at.timestamp() == pytest.approx(EPOCH_S + skew_s, abs=60)


@pytest.mark.parametrize(
    ("policy", "outcome"), [(Policy.STAGGERED, ConnectionOutcome.FAILED), (Policy.PATIENT, DIRECT)]
)
def test_patience_gives_both_sides_of_a_punch_the_time_that_slow_signals_take(
    policy: Policy, outcome: ConnectionOutcome
) -> None:
    topology = pair("port_restricted", "port_restricted", broker_delay_ms=8_000)
    row = connect(topology, "a", "b", policy=policy)
    assert row.outcome is outcome


def test_ten_idle_minutes_pass_in_no_time() -> None:
    with World(DEFAULT) as world:
        began_s = time.perf_counter()
        world.wait(600)
        assert time.perf_counter() - began_s < 1
        assert world.connect("port_restricted", "full_cone").outcome is DIRECT


_SCENARIO = """
from warpfleet.configs.topology import find_topology
from warpfleet.lab.sim.world import World
default = find_topology("default")
hosts = tuple(host.model_copy(update={{"loss": 0.025, "jitter_ms": 10}}) for host in default.hosts)
with World(default.model_copy(update={{"hosts": hosts}}), seed={seed}, signal_loss=0.1) as world:
    for b in ("public", "full_cone", "symmetric_sequential", "udp_blocked"):
        world.connect("port_restricted", b)
        world.connect(b, "symmetric_random")
    print(*world.rows.connections_ended, *world.rows.attempts_ended, sep="\\n")
"""


def rows_of(seed: int, hash_seed: int) -> bytes:
    """The rows of a scenario, from a process whose sets are in an order of its own."""
    command = [sys.executable, "-c", _SCENARIO.format(seed=seed)]
    environment = {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


def test_the_same_seed_gives_the_same_rows_byte_for_byte() -> None:
    first = rows_of(seed=7, hash_seed=1)
    assert first.count(b"ConnectionRow") == 8
    assert rows_of(seed=7, hash_seed=2) == first
    assert rows_of(seed=8, hash_seed=1) != first
