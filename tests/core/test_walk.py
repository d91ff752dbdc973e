"""The plan, which reads like a specification, and the walk over it, on exact times."""

from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.combo import Combo, Phase, Reason, RouteType, Transport
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.exit import Exit
from warpfleet.core.experience import Between, Experience, Inbound, RoundTrip, Subject, Track
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import (
    PhasePlan,
    PhaseTiming,
    Pin,
    Plan,
    Planned,
    Skipped,
    Technique,
    WalkNumbers,
    make_plan,
    subjects,
)
from warpfleet.core.walk import RELAY_AWAITED_S, Action, Cancel, Finish, Move, Name, Start, Walk

NIC, EXT, LOOPBACK = RouteType.NIC, RouteType.EXT, RouteType.LOOPBACK
DIRECT, PUNCH, SPRAY, RELAY = Phase.DIRECT, Phase.PUNCH, Phase.SPRAY, Phase.RELAY
STRICT_TIMINGS = {phase: PhaseTiming(None, 5.0) for phase in Phase}
STAGGERED_TIMINGS = {
    DIRECT: PhaseTiming(0, 5),
    SPRAY: PhaseTiming(0.3, 15),
    PUNCH: PhaseTiming(1.0, 10),
    RELAY: PhaseTiming(2.5, 10),
}
STRICT = WalkNumbers(STRICT_TIMINGS, skip_ruled_out=False, deadline_s=45)
STAGGERED = WalkNumbers(STAGGERED_TIMINGS, skip_ruled_out=True, deadline_s=30)
RELAY_FIRST = WalkNumbers(
    STAGGERED_TIMINGS | {RELAY: PhaseTiming(0, 10)}, skip_ruled_out=True, deadline_s=30, upgrades=True
)


def technique(
    plugin: str, phase: Phase | None, requirement: Requirement, *routes: RouteType, families: tuple[int, ...] = (4,)
) -> Technique:
    transport = Transport.TCP if phase is DIRECT else Transport.UDP
    return Technique(
        plugin=plugin, phase=phase, transport=transport, requirement=requirement, routes=routes, families=families
    )


DIAL = technique("dial", DIRECT, Requirement.PEER_REACHABLE, NIC, EXT, LOOPBACK)
REVERSE = technique("reverse", DIRECT, Requirement.SELF_REACHABLE, NIC, EXT)
PUNCHER = technique("punch", SPRAY, Requirement.PUNCHABLE, NIC, EXT)
RELAYER = technique("relay", RELAY, Requirement.RELAY, EXT)
ASK = technique("ask", None, Requirement.SIGNAL, EXT)
TECHNIQUES = (DIAL, REVERSE, PUNCHER, RELAYER, ASK)

OPEN = NatBehaviour(translated=False, filtering=Filtering.EIF, mapping=Mapping.EIM, udp=True)
CONE = NatBehaviour(translated=True, filtering=Filtering.APDF, mapping=Mapping.EIM, udp=True)
RANDOM_NAT = NatBehaviour(
    translated=True, filtering=Filtering.APDF, mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM, udp=True
)


def peer(
    name: str,
    ip: str,
    external: str | None,
    nat: NatBehaviour,
    *,
    machine: str = "",
    relay: bool = True,
    listens: bool = True,
) -> PeerView:
    return PeerView(
        name=name,
        machine=machine or name,
        interfaces=(Interface("eth0", ip, 24),),
        listeners=(Endpoint("0.0.0.0", 443),) if listens else (),
        external={4: external} if external else {},
        nat={4: nat},
        relay=relay,
    )


HOME = peer("home", "192.168.1.2", "198.51.100.1", CONE)
FLATMATE = peer("flatmate", "192.168.1.3", "198.51.100.1", CONE)
FAR_HOME = peer("far_home", "192.168.1.2", "198.51.100.2", CONE)
SERVER = peer("server", "203.0.113.5", "203.0.113.5", OPEN)
HEARING = replace(SERVER, standing={4: 40_000})
BLOCKED_HOME = peer("blocked", "192.168.1.2", "198.51.100.4", NatBehaviour(translated=True, udp=False))
UNPROBED = peer("unprobed", "203.0.113.5", "203.0.113.5", NatBehaviour())
OFFICE = peer("office", "10.0.0.2", "198.51.100.3", RANDOM_NAT)
SAME_BOX = peer("same_box", "192.168.1.2", "198.51.100.1", CONE, machine="home")


def read(plan: Plan) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The plan as a specification: what is tried in each phase, long shots with a question mark, and what is skipped,
    why."""
    tried = {
        p.phase.value: [f"{c.combo.plugin}/{c.combo.route}{'?' * c.long_shot}" for c in p.combos]
        for p in plan.phases
        if p.combos
    }
    return tried, {f"{s.combo.plugin}/{s.combo.route}": s.reason.value for s in plan.skipped}


HOME_TO_SERVER = {"direct": ["dial/ext", "reverse/ext?"], "spray": ["punch/ext"], "relay": ["relay/ext"]}
NO_LAN = {"dial/nic": "not_same_network", "reverse/nic": "not_same_network", "punch/nic": "not_same_network"}
NOT_HERE = {"dial/loopback": "not_same_machine"}


@pytest.mark.parametrize(
    ("mine", "theirs", "tried", "skipped"),
    [
        pytest.param(
            HOME,
            SERVER,
            HOME_TO_SERVER,
            {**NO_LAN, **NOT_HERE},
            id="home-server",
        ),
        pytest.param(
            SERVER,
            HOME,
            {"direct": ["dial/ext?", "reverse/ext"], "spray": ["punch/ext"], "relay": ["relay/ext"]},
            {**NO_LAN, **NOT_HERE},
            id="server-home",
        ),
        pytest.param(
            HOME,
            FAR_HOME,
            {"direct": ["dial/ext?", "reverse/ext?"], "spray": ["punch/ext"], "relay": ["relay/ext"]},
            {**NO_LAN, **NOT_HERE},
            id="two homes with one private subnet are not one network",
        ),
        pytest.param(
            HOME,
            FLATMATE,
            {
                "direct": ["dial/nic", "dial/ext?", "reverse/nic", "reverse/ext?"],
                "spray": ["punch/nic", "punch/ext"],
                "relay": ["relay/ext"],
            },
            NOT_HERE,
            id="one network",
        ),
        pytest.param(
            HOME,
            OFFICE,
            {"direct": ["dial/ext?", "reverse/ext?"], "relay": ["relay/ext"]},
            {**NO_LAN, **NOT_HERE, "punch/ext": "nat_rules_out"},
            id="port-restricted and random ports leave the relay, and what UDP does not show",
        ),
    ],
)
def test_the_staggered_plan_leaves_out_what_the_nats_rule_out(
    mine: PeerView, theirs: PeerView, tried: dict[str, list[str]], skipped: dict[str, str]
) -> None:
    assert read(make_plan(TECHNIQUES, STAGGERED, mine, theirs)) == (tried, skipped)


def test_the_strict_plan_tries_what_the_nats_rule_out() -> None:
    tried = {"direct": ["dial/ext", "reverse/ext"], "spray": ["punch/ext"], "relay": ["relay/ext"]}
    assert read(make_plan(TECHNIQUES, STRICT, HOME, OFFICE)) == (tried, NO_LAN | NOT_HERE)


@pytest.mark.parametrize(("theirs", "start_s"), [(FLATMATE, 0.1), (UNPROBED, 0.3), (FAR_HOME, 0.3)])
def test_a_punch_waits_less_for_what_is_dialled_inside_one_network(theirs: PeerView, start_s: float) -> None:
    assert planned(make_plan(TECHNIQUES, STAGGERED, HOME, theirs))["punch/ext"].start_s == start_s


GUESSER = technique("guess", SPRAY, Requirement.GUESSABLE, EXT, families=(4, 6))


def test_guesses_start_at_once_where_nothing_else_is_likely() -> None:
    plan = make_plan((*TECHNIQUES, GUESSER), STAGGERED, HOME, OFFICE)
    assert planned(plan)["guess/ext"] == Planned(Combo("guess", 4, EXT), 0.3)


def test_guesses_give_way_to_a_punch_over_the_other_address_family() -> None:
    def with_ipv6(view: PeerView, ip: str) -> PeerView:
        interfaces = (*view.interfaces, Interface("eth0", ip, 64))
        return replace(view, interfaces=interfaces, external=view.external | {6: ip}, nat=view.nat | {6: CONE})

    ends = with_ipv6(HOME, "2001:db8:1::2"), with_ipv6(OFFICE, "2001:db8:2::2")
    techniques = (technique("punch", SPRAY, Requirement.PUNCHABLE, EXT, families=(4, 6)), GUESSER)
    for numbers, start_s in ((STAGGERED, 1.0), (STRICT, None)):
        plan = make_plan(techniques, numbers, *ends)
        [spray] = [phase for phase in plan.phases if phase.phase is SPRAY]
        starts = {(c.combo.plugin, c.combo.af): c.start_s for c in spray.combos}
        assert (starts["punch", 6], starts["guess", 4]) == (numbers.timings[SPRAY].start_s, start_s)


def test_two_nodes_of_one_machine_may_use_its_loopback_interface() -> None:
    tried, _ = read(make_plan(TECHNIQUES, STAGGERED, HOME, SAME_BOX))
    assert "dial/loopback" in tried["direct"]


@pytest.mark.parametrize(
    ("mine", "theirs", "combo", "reason"),
    [
        (HOME, peer("b", "203.0.113.9", "203.0.113.9", OPEN, listens=False), "dial/ext", Reason.NOT_LISTENING),
        (HOME, peer("b", "203.0.113.9", None, OPEN), "dial/ext", Reason.NO_ADDRESS),
        (HOME, PeerView(name="b", machine="b"), "dial/ext", Reason.NO_COMMON_FAMILY),
        (HOME, PeerView(name="b", machine="b"), "punch/nic", Reason.NO_COMMON_FAMILY),
        (peer("a", "10.0.0.1", "198.51.100.7", CONE, relay=False), SERVER, "relay/ext", Reason.NO_RELAY),
    ],
)
def test_what_cannot_be_formed_is_skipped_under_every_policy(
    mine: PeerView, theirs: PeerView, combo: str, reason: Reason
) -> None:
    for numbers in (STRICT, STAGGERED):
        _, skipped = read(make_plan(TECHNIQUES, numbers, mine, theirs))
        assert skipped[combo] == reason


def test_a_plugin_that_cannot_serve_the_initiator_is_skipped_with_the_reason() -> None:
    unavailable = {"dial": Reason.OPTED_OUT, "relay": Reason.ACTOR_DIED}
    tried, skipped = read(make_plan(TECHNIQUES, STAGGERED, HOME, SERVER, unavailable=unavailable))
    assert tried == {"direct": ["reverse/ext?"], "spray": ["punch/ext"]}
    assert {skipped[c] for c in ("dial/nic", "dial/ext", "dial/loopback")} == {"opted_out"}
    assert skipped["relay/ext"] == "actor_died"


@pytest.mark.parametrize(
    ("pin", "tried"),
    [
        (Pin(), HOME_TO_SERVER),
        (Pin(plugin="punch"), {"spray": ["punch/ext"]}),
        (Pin(plugin="ask"), {"direct": ["ask/ext"]}),
        (Pin(plugin="nobody"), {}),
        (Pin(af=6), {}),
        (Pin(af=4, plugin="relay"), {"relay": ["relay/ext"]}),
        (Pin(route=NIC), {}),
        (Pin(route=EXT), HOME_TO_SERVER),
    ],
)
def test_a_pin_leaves_only_what_the_caller_wants(pin: Pin, tried: dict[str, list[str]]) -> None:
    plan = make_plan(TECHNIQUES, STAGGERED, HOME, SERVER, pin)
    assert read(plan)[0] == tried
    assert all(pin.plugin in (None, s.combo.plugin) and pin.route in (None, s.combo.route) for s in plan.skipped)


def test_what_nobody_pinned_is_not_even_recorded_as_skipped() -> None:
    assert not [s for s in make_plan(TECHNIQUES, STAGGERED, HOME, SERVER).skipped if s.combo.plugin == "ask"]


# Experience

REALM = "r"
HOME_EXIT, SERVER_EXIT = Exit(REALM, 4, "198.51.100.1"), Exit(REALM, 4, "203.0.113.5")
PUNCHED = Between(REALM, "punch", 4, CONE.signature, CONE.signature)


def known(tracks: dict[Subject, Track]) -> Experience:
    return Experience(REALM, tracks)


def record(wins: int, tries: int, connect_ms: float | None = None) -> Track:
    return Track(tries=tries, wins=wins, last_at=0, connect_ms=connect_ms)


def planned(plan: Plan) -> dict[str, Planned]:
    return {f"{c.combo.plugin}/{c.combo.route}": c for p in plan.phases for c in p.combos}


def advised_against(plan: Plan) -> dict[str, str | None]:
    return {f"{s.combo.plugin}/{s.combo.route}": s.advice for s in plan.skipped if s.reason is RULED_OUT}


RULED_OUT = Reason.EXPERIENCE_RULES_OUT


def test_a_long_shot_that_never_worked_is_left_out_whichever_plugin_tried() -> None:
    tracks = {Inbound(HOME_EXIT, "dial"): record(0, 5), Inbound(HOME_EXIT, "reverse"): record(0, 3)}
    plan = make_plan(TECHNIQUES, STAGGERED, SERVER, HOME, experience=known(tracks))
    assert advised_against(plan) == {
        "dial/ext": "0 of 8 tries reached TCP listeners behind 198.51.100.1 in the last 24 h"
    }
    assert "reverse/ext" in planned(plan), "which dials the other end"


@pytest.mark.parametrize(
    ("tracks", "long_shot"),
    [
        ({}, True),
        ({Inbound(HOME_EXIT, "dial"): record(0, 7)}, True),
        ({Inbound(Exit("elsewhere", 4, HOME_EXIT.address), "dial"): record(0, 32)}, True),
        ({Inbound(SERVER_EXIT, "dial"): record(0, 32)}, True),
        ({Inbound(HOME_EXIT, "dial"): record(1, 9)}, False),
        ({Inbound(HOME_EXIT, "reverse"): record(1, 32), Inbound(HOME_EXIT, "dial"): record(0, 32)}, False),
    ],
)
def test_a_long_shot_that_worked_once_is_none(tracks: dict[Subject, Track], long_shot: bool) -> None:
    plan = make_plan(TECHNIQUES, STAGGERED, SERVER, HOME, experience=known(tracks))
    assert planned(plan)["dial/ext"].long_shot is long_shot


def test_what_theory_thinks_likely_is_tried_although_it_never_worked_for_others() -> None:
    tracks: dict[Subject, Track] = {PUNCHED: record(0, 32), Inbound(SERVER_EXIT, "dial"): record(0, 32)}
    for theirs in (FAR_HOME, SERVER):
        assert advised_against(make_plan(TECHNIQUES, STAGGERED, HOME, theirs, experience=known(tracks))) == {}


def test_a_relay_is_never_left_out() -> None:
    relayed = Between(REALM, "relay", 4, CONE.signature, CONE.signature)
    plan = make_plan(TECHNIQUES, STAGGERED, HOME, FAR_HOME, experience=known({relayed: record(0, 32)}))
    assert advised_against(plan) == {}
    assert "relay/ext" in planned(plan)


def test_what_an_earlier_combo_makes_unlikely_to_be_needed_is_moved() -> None:
    tracks = {Inbound(SERVER_EXIT, "reverse"): record(16, 16, 360.0)}
    found = planned(make_plan(TECHNIQUES, STAGGERED, UNPROBED, HOME, experience=known(tracks)))
    advice = "moved from 0.30 s to 0.59 s: reverse towards 203.0.113.5 won 16 of 16, in 360 ms on average"
    assert found["punch/ext"] == Planned(Combo("punch", 4, EXT), pytest.approx(0.59), advice=advice)
    assert found["relay/ext"] == Planned(Combo("relay", 4, EXT), 2.5), "it comes later anyway"
    assert found["reverse/ext"].start_s == 0


@pytest.mark.parametrize(
    ("track", "start_s"),
    [
        (record(3, 3, 360.0), 0.59),
        (record(2, 2, 360.0), 0.3),
        (record(9, 10, 360.0), 0.59),
        (record(8, 10, 360.0), 0.3),
        (record(9, 9, 100.0), 0.3),
        (record(9, 9, None), 0.3),
        (record(9, 9, 5000.0), 0.8),  # half a second later at most
    ],
)
def test_only_what_has_proved_itself_moves_others(track: Track, start_s: float) -> None:
    tracks: dict[Subject, Track] = {Inbound(SERVER_EXIT, "reverse"): track}
    found = planned(make_plan(TECHNIQUES, STAGGERED, UNPROBED, HOME, experience=known(tracks)))
    assert found["punch/ext"].start_s == pytest.approx(start_s)
    assert (found["punch/ext"].advice is None) == (start_s == 0.3)


def test_a_slow_punch_moves_the_relay() -> None:
    found = planned(make_plan(TECHNIQUES, STAGGERED, HOME, FAR_HOME, experience=known({PUNCHED: record(4, 4, 2000.0)})))
    assert found["relay/ext"].start_s == pytest.approx(3.0)
    assert "punch between port_restricted and port_restricted won 4 of 4" in (found["relay/ext"].advice or "")


def test_the_strict_policy_heeds_no_experience() -> None:
    tracks = {Inbound(HOME_EXIT, "dial"): record(0, 32), Inbound(SERVER_EXIT, "reverse"): record(9, 9, 360.0)}
    assert make_plan(TECHNIQUES, STRICT, SERVER, HOME, experience=known(tracks)) == make_plan(
        TECHNIQUES, STRICT, SERVER, HOME
    )
    assert subjects(TECHNIQUES, STRICT, SERVER, HOME, Pin(), realm=REALM) == []


def test_experience_that_would_leave_nothing_is_not_heeded() -> None:
    pin, tracks = Pin(plugin="dial"), {Inbound(HOME_EXIT, "dial"): record(0, 32)}
    plan = make_plan(TECHNIQUES, STAGGERED, SERVER, HOME, pin, experience=known(tracks))
    assert read(plan)[0] == {"direct": ["dial/ext?"]}


def round_trip(plugin: str) -> RoundTrip:
    """Between the exits of SERVER and HOME."""
    return RoundTrip(REALM, plugin, 4, *sorted((HOME_EXIT.address, SERVER_EXIT.address)))


def test_a_known_round_trip_is_in_the_plan() -> None:
    tracks = {round_trip("punch"): Track(tries=3, wins=3, last_at=0.0, rtt_ms=82.0)}
    plan = make_plan(TECHNIQUES, STAGGERED, SERVER, HOME, experience=known(tracks))
    known_ms = {planned.combo.plugin: planned.rtt_ms for phase in plan.phases for planned in phase.combos}
    assert {plugin for plugin, rtt_ms in known_ms.items() if rtt_ms == 82.0} == {"punch"}
    starts = [action for action in Walk(plan).advance(30.0 - 1e-6) if isinstance(action, Start)]
    assert {start.combo.plugin: start.rtt_ms for start in starts}["punch"] == 82.0


@pytest.mark.parametrize(
    ("pin", "asked"),
    [
        (
            Pin(),
            [
                *(Inbound(exit_, plugin) for exit_ in (HOME_EXIT, SERVER_EXIT) for plugin in ("dial", "reverse")),
                Between(REALM, "punch", 4, OPEN.signature, CONE.signature),
                *(round_trip(plugin) for plugin in ("punch", "relay")),
            ],
        ),
        (Pin(plugin="dial"), [Inbound(HOME_EXIT, "dial"), Inbound(HOME_EXIT, "reverse")]),
        (Pin(plugin="relay"), [round_trip("relay")]),
        (Pin(af=6), []),
    ],
)
def test_the_subjects_that_a_plan_may_ask_about(pin: Pin, asked: list[Subject]) -> None:
    assert subjects(TECHNIQUES, STAGGERED, SERVER, HOME, pin, realm=REALM) == asked


_ENDS = st.sampled_from([HOME, FLATMATE, FAR_HOME, SERVER, OFFICE])
_TRACKS = st.builds(
    lambda wins, losses, ms: record(wins, wins + losses, ms if wins else None),
    st.integers(0, 20),
    st.integers(0, 20),
    st.floats(1, 20_000),
)


@given(_ENDS, _ENDS, st.data())
def test_experience_removes_no_relay_and_starts_nothing_sooner_nor_much_later(
    mine: PeerView, theirs: PeerView, data: st.DataObject
) -> None:
    asked = subjects(TECHNIQUES, STAGGERED, mine, theirs, Pin(), realm=REALM)
    relay = Between(REALM, "relay", 4, mine.behaviour(4).signature, theirs.behaviour(4).signature)
    tracks = {subject: data.draw(_TRACKS) for subject in [*asked, relay]}
    without = planned(make_plan(TECHNIQUES, STAGGERED, mine, theirs))
    advised = make_plan(TECHNIQUES, STAGGERED, mine, theirs, experience=known(tracks))
    found = planned(advised)
    assert "relay/ext" in found
    assert found.keys() | advised_against(advised).keys() == without.keys()
    for name, now in found.items():
        before = without[name].start_s
        assert before is not None
        assert now.start_s is not None
        assert before <= now.start_s <= before + 0.5
        assert (now.advice is None) == (now.start_s == before)


# The walk

A, B, C, D = (Combo(name, 4, EXT) for name in "abcd")
COMBOS = (A, B, C, D)
_PLACES = st.tuples(*(st.sampled_from(list(Phase)) for _ in COMBOS))


def plan(numbers: WalkNumbers, *, long_shots: Collection[Combo] = (), **phases: tuple[Combo, ...]) -> Plan:
    """`plan(STRICT, direct=(A,), relay=(B,))`."""

    def phase_plan(phase: Phase) -> PhasePlan:
        timing = numbers.timings[phase]
        combos = phases.get(phase.value, ())
        planned = tuple(Planned(combo, timing.start_s, combo in long_shots) for combo in combos)
        return PhasePlan(phase, timing.timeout_s, planned)

    phases_by_start = sorted(Phase, key=lambda phase: numbers.timings[phase].start_s or 0)
    return Plan(tuple(map(phase_plan, phases_by_start)), (), numbers.deadline_s, numbers.upgrades)


def test_strict_starts_a_phase_only_when_all_of_the_earlier_one_has_ended() -> None:
    walk = Walk(plan(STRICT, direct=(A, B), relay=(C,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5), Start(B, DIRECT, 5)]
    walk.ended(A)
    assert walk.advance(40) == []
    walk.ended(B)
    assert walk.advance(40.5) == [Start(C, RELAY, 5)]
    assert walk.next_wakeup_s() == 45
    walk.ended(C)
    assert walk.advance(41) == [Finish(None, Reason.ALL_FAILED, ())]


def test_staggered_starts_each_phase_at_its_time() -> None:
    walk = Walk(plan(STAGGERED, direct=(A,), spray=(B,), relay=(C,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5)]
    assert (walk.next_wakeup_s(), walk.advance(0.299)) == (0.3, [])
    assert walk.advance(0.3) == [Start(B, SPRAY, 15)]
    assert (walk.next_wakeup_s(), walk.advance(2.4)) == (2.5, [])
    assert walk.advance(2.5) == [Start(C, RELAY, 10)]
    assert walk.next_wakeup_s() == 30


def test_staggered_starts_the_next_phase_sooner_where_nothing_is_left() -> None:
    walk = Walk(plan(STAGGERED, direct=(A,), spray=(B,), relay=(C,)))
    walk.advance(0)
    walk.ended(A)
    assert walk.advance(0.1) == [Start(B, SPRAY, 15)]
    walk.ended(B)
    assert walk.advance(0.2) == [Start(C, RELAY, 10)]


def test_empty_phases_cost_no_time() -> None:
    assert Walk(plan(STRICT, relay=(C,))).advance(0) == [Start(C, RELAY, 5)]
    assert Walk(plan(STAGGERED, relay=(C,))).advance(0) == [Start(C, RELAY, 10)]


def test_nothing_to_try_ends_at_once() -> None:
    assert Walk(plan(STRICT)).advance(0) == [Finish(None, Reason.NOTHING_TO_TRY, ())]


def test_the_first_ready_pipe_is_named_and_wins() -> None:
    walk = Walk(plan(STAGGERED, direct=(A, B), relay=(C,)))
    walk.advance(0)
    walk.ready(B)
    assert walk.advance(0.1) == [Name(B)]
    walk.ready(A)
    assert walk.advance(0.11) == []
    walk.agreed(B)
    assert walk.advance(0.2) == [
        Cancel(A, Reason.OTHER_PIPE_WON),
        Finish(B, None, (Skipped(C, RELAY, Reason.NOT_NEEDED),)),
    ]
    assert walk.advance(0.3) == []


def test_a_named_pipe_that_dies_makes_room_for_the_next() -> None:
    walk = Walk(plan(STAGGERED, direct=(A, B)))
    walk.advance(0)
    walk.ready(A)
    walk.ready(B)
    assert walk.advance(0.1) == [Name(A)]
    walk.ended(A)
    assert walk.advance(0.2) == [Name(B)]


def test_the_deadline_cancels_what_runs() -> None:
    walk = Walk(plan(STRICT, direct=(A,), relay=(B,)))
    walk.advance(0)
    assert walk.advance(44.999) == []
    assert walk.advance(45) == [
        Cancel(A, Reason.DEADLINE),
        Finish(None, Reason.DEADLINE, (Skipped(B, RELAY, Reason.DEADLINE),)),
    ]


def test_a_pipe_that_both_ends_agree_on_wins_even_at_the_deadline() -> None:
    walk = Walk(plan(STRICT, direct=(A,)))
    walk.advance(0)
    walk.ready(A)
    walk.advance(1)
    walk.agreed(A)
    walk.stop(Reason.STOPPED)
    assert walk.advance(45) == [Finish(A, None, ())]


def test_stopped_before_it_began_it_starts_nothing() -> None:
    walk = Walk(plan(STRICT, direct=(A,)))
    walk.stop(Reason.STOPPED)
    walk.stop(Reason.DEADLINE)
    assert walk.advance(0) == [Finish(None, Reason.STOPPED, (Skipped(A, DIRECT, Reason.STOPPED),))]


# Long shots and combos that were moved


def test_a_long_shot_is_tried_and_not_waited_for() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), spray=(B,), relay=(C,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5), Start(B, SPRAY, 15)]
    walk.ended(B)
    assert walk.advance(0.2) == [Start(C, RELAY, 10)]


def test_where_all_else_has_failed_the_long_shot_is_waited_for() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), relay=(C,)))
    walk.advance(0)
    walk.ended(C)
    assert walk.advance(1) == []
    walk.ready(A)
    assert walk.advance(2) == [Name(A)]
    walk.agreed(A)
    assert walk.advance(2.1) == [Finish(A, None, ())]


def test_where_the_long_shot_fails_too_the_walk_ends() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), relay=(C,)))
    walk.advance(0)
    walk.ended(C)
    walk.advance(1)
    walk.ended(A)
    assert walk.advance(5) == [Finish(None, Reason.ALL_FAILED, ())]


def test_a_long_shot_that_is_ready_is_worth_waiting_for() -> None:
    walk = Walk(plan(STAGGERED, long_shots=(A,), direct=(A,), spray=(B,), relay=(C,)))
    walk.advance(0)
    walk.ready(A)
    walk.ended(B)
    assert walk.advance(0.2) == [Name(A)]


MOVED = Plan(
    (
        PhasePlan(DIRECT, 5, (Planned(A, 0),)),
        PhasePlan(SPRAY, 15, (Planned(B, 0.59, advice="why"), Planned(C, 0.3))),
    ),
    (),
    30,
)


def test_what_was_moved_starts_at_its_new_time() -> None:
    walk = Walk(MOVED)
    walk.advance(0)
    assert (walk.next_wakeup_s(), walk.advance(0.3)) == (0.3, [Start(C, SPRAY, 15)])
    assert (walk.next_wakeup_s(), walk.advance(0.59)) == (0.59, [Start(B, SPRAY, 15, "why")])


def test_what_was_moved_starts_sooner_where_nothing_earlier_is_left() -> None:
    walk = Walk(MOVED)
    walk.advance(0)
    walk.ended(A)
    assert walk.advance(0.1) == [Start(C, SPRAY, 15)]
    walk.ended(C)
    assert walk.advance(0.2) == [Start(B, SPRAY, 15, "why")]


def test_a_later_phase_may_start_first() -> None:
    walk = Walk(plan(STAGGERED, punch=(A,), spray=(B,)))
    assert walk.advance(0) == [Start(B, SPRAY, 15)]
    assert (walk.next_wakeup_s(), walk.advance(1.0)) == (1.0, [Start(A, PUNCH, 10)])


def test_what_was_moved_and_then_not_needed_says_why() -> None:
    walk = Walk(MOVED)
    walk.advance(0.3)
    walk.ready(A)
    walk.advance(0.4)
    walk.agreed(A)
    *_, finish = walk.advance(0.5)
    assert finish == Finish(A, None, (Skipped(B, SPRAY, Reason.NOT_NEEDED, "why"),))


# A relay first


def test_relay_first_is_staggered_with_a_relay_at_once() -> None:
    def starts(numbers: WalkNumbers) -> dict[str, float | None]:
        return {name: p.start_s for name, p in planned(make_plan(TECHNIQUES, numbers, HOME, FAR_HOME)).items()}

    assert starts(RELAY_FIRST) == starts(STAGGERED) | {"relay/ext": 0}


@pytest.mark.parametrize("numbers", [STAGGERED, RELAY_FIRST])
@pytest.mark.parametrize(
    ("mine", "theirs", "first"),
    [
        (HOME, SERVER, {"dial/ext"}),
        (HOME, HEARING, {"dial/ext"}),
        (SERVER, HOME, {"reverse/ext"}),
        (HEARING, HOME, {"punch/ext"}),
        (HEARING, OFFICE, {"punch/ext"}),
        (HEARING, BLOCKED_HOME, {"reverse/ext"}),
    ],
)
def test_beside_what_is_sure_nothing_but_a_relay_starts_before_that_has_had_its_time(
    numbers: WalkNumbers, mine: PeerView, theirs: PeerView, first: set[str]
) -> None:
    found = planned(make_plan(TECHNIQUES, numbers, mine, theirs))
    assert {name for name, p in found.items() if p.start_s == 0} - {"relay/ext"} == first
    assert {p.start_s for name, p in found.items() if name not in {"relay/ext", *first}} == {0.6}


def test_two_servers_of_one_network_dial_each_other_there_at_once() -> None:
    found = planned(make_plan(TECHNIQUES, STAGGERED, SERVER, replace(SERVER, name="b", external={4: "203.0.113.6"})))
    assert {name for name, p in found.items() if p.start_s == 0} >= {"dial/nic", "dial/ext", "reverse/nic"}
    assert found["reverse/ext"].start_s == 0.6, "the stream that we open comes first"


def test_what_experience_denies_is_not_sure() -> None:
    tracks: dict[Subject, Track] = {Inbound(SERVER_EXIT, "dial"): record(0, 32)}
    found = planned(make_plan(TECHNIQUES, STAGGERED, HOME, SERVER, experience=known(tracks)))
    assert (found["dial/ext"].start_s, found["punch/ext"].start_s) == (0, 0.3)
    tracks = {Between(REALM, "punch", 4, OPEN.signature, CONE.signature): record(0, 32)}
    found = planned(make_plan(TECHNIQUES, STAGGERED, HEARING, HOME, experience=known(tracks)))
    assert (found["reverse/ext"].start_s, found["punch/ext"].start_s) == (0, 0.3)


def test_experience_moves_no_relay_that_comes_first_and_nothing_on_account_of_one() -> None:
    relayed = Between(REALM, "relay", 4, NatBehaviour().signature, CONE.signature)
    for slow in (Inbound(SERVER_EXIT, "reverse"), relayed):
        tracks: dict[Subject, Track] = {slow: record(16, 16, 2000.0)}
        found = planned(make_plan(TECHNIQUES, RELAY_FIRST, UNPROBED, HOME, experience=known(tracks)))
        assert found["relay/ext"].start_s == 0
        assert found["punch/ext"].start_s == (0.3 if slow is relayed else 0.8)


def carried() -> Walk:
    """A walk whose relayed pipe, D, is in use since 0.2 s, while A is under way."""
    walk = Walk(plan(RELAY_FIRST, direct=(A,), spray=(B,), relay=(D,)))
    walk.advance(0)
    walk.ready(D)
    assert walk.advance(0.1) == [Name(D)]
    walk.agreed(D)
    return walk


def test_a_relay_starts_beside_the_rest_which_does_not_wait_for_it() -> None:
    walk = Walk(plan(RELAY_FIRST, long_shots=(A,), direct=(A,), spray=(B,), relay=(D,)))
    assert walk.advance(0) == [Start(A, DIRECT, 5), Start(D, RELAY, 10), Start(B, SPRAY, 15)]


def test_a_relayed_pipe_does_not_end_the_walk() -> None:
    walk = carried()
    assert (walk.advance(0.2), walk.next_wakeup_s()) == ([], 0.3)
    assert walk.advance(0.3) == [Start(B, SPRAY, 15)]


def test_a_relayed_pipe_in_use_moves_to_the_first_direct_path() -> None:
    walk = carried()
    walk.advance(0.3)
    walk.ready(B)
    assert walk.advance(0.4) == [Move(B)]
    walk.agreed(B)
    assert walk.advance(0.5) == [Cancel(A, Reason.OTHER_PIPE_WON), Finish(B, None, ())]


def test_a_direct_path_that_dies_as_the_pipe_is_to_move_makes_room_for_the_next() -> None:
    walk = carried()
    walk.advance(0.3)
    walk.ready(A)
    walk.ready(B)
    assert walk.advance(0.4) == [Move(A)]
    walk.ended(A)
    assert walk.advance(0.5) == [Move(B)]


def test_a_direct_path_that_comes_before_the_relay_waits_for_it() -> None:
    walk = Walk(plan(RELAY_FIRST, direct=(A,), relay=(D,)))
    walk.advance(0)
    walk.ready(A)
    assert (walk.advance(0.1), walk.next_wakeup_s()) == ([], RELAY_AWAITED_S)
    walk.ready(D)
    assert walk.advance(0.2) == [Name(D)]
    walk.agreed(D)
    assert walk.advance(0.3) == [Move(A)]


@pytest.mark.parametrize("fails", [True, False])
def test_a_direct_path_waits_for_no_relay_that_fails_or_takes_long(fails: bool) -> None:
    walk = Walk(plan(RELAY_FIRST, direct=(A,), relay=(D,)))
    walk.advance(0)
    walk.ready(A)
    assert walk.advance(0.1) == []
    if fails:
        walk.ended(D)
    assert walk.advance(0.2 if fails else RELAY_AWAITED_S) == [Name(A)]
    assert walk.next_wakeup_s() == 30, "the deadline"
    walk.agreed(A)
    assert walk.advance(2) == [Cancel(D, Reason.OTHER_PIPE_WON)] * (not fails) + [Finish(A, None, ())]


def test_the_walk_of_a_relayed_pipe_ends_when_nothing_direct_is_left() -> None:
    walk = carried()
    walk.ended(A)
    assert walk.advance(0.2) == [Start(B, SPRAY, 15)]
    walk.ended(B)
    assert walk.advance(0.4) == [Finish(D, None, ())]


def test_the_deadline_ends_the_search_and_leaves_the_relayed_pipe() -> None:
    walk = carried()
    walk.advance(0.3)
    assert walk.advance(30) == [Cancel(A, Reason.DEADLINE), Cancel(B, Reason.DEADLINE), Finish(D, None, ())]


def test_of_several_relays_one_is_enough() -> None:
    walk = Walk(plan(RELAY_FIRST, spray=(A,), relay=(B, C, D)))
    assert walk.advance(0) == [Start(B, RELAY, 10), Start(C, RELAY, 10), Start(D, RELAY, 10), Start(A, SPRAY, 15)]
    walk.ready(B)
    walk.ready(C)
    assert walk.advance(0.1) == [Name(B)]
    walk.agreed(B)
    assert walk.advance(0.2) == [Cancel(C, Reason.OTHER_PIPE_WON), Cancel(D, Reason.OTHER_PIPE_WON)]
    walk.ready(D)
    assert walk.advance(0.3) == []


@given(
    st.sampled_from([STRICT, STAGGERED]),
    _PLACES,
    st.sets(st.sampled_from(COMBOS)),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(COMBOS)), max_size=12),
)
def test_a_long_shot_delays_no_other_start(
    numbers: WalkNumbers, places: tuple[Phase, ...], long_shots: set[Combo], ends: list[tuple[float, Combo]]
) -> None:
    def starts(combos: Collection[Combo]) -> dict[Combo, float]:
        """When each of these is started, while attempts fail as drawn."""
        phases = {
            p.value: tuple(c for c, q in zip(COMBOS, places, strict=True) if p is q and c in combos) for p in Phase
        }
        walk = Walk(plan(numbers, long_shots=long_shots, **phases))
        begun: dict[Combo, float] = {}
        now_s = 0.0
        for wait_s, combo in [(0.0, None), *ends, (numbers.deadline_s, None)]:
            now_s += wait_s
            while (wakeup_s := walk.next_wakeup_s()) < now_s and not walk.finished:
                begun |= {a.combo: wakeup_s for a in walk.advance(wakeup_s) if isinstance(a, Start)}
            if combo is not None:
                walk.ended(combo)
            begun |= {a.combo: now_s for a in walk.advance(now_s) if isinstance(a, Start)}
        return begun

    others = set(COMBOS) - long_shots
    with_them, without = starts(COMBOS), starts(others)
    assert {c: with_them[c] for c in with_them if c in others} == pytest.approx(without)


# A state is how a walk over (A, B) came there; each input leads to what `advance` says next.
_STATES = {
    "running": (),
    "ready": ("ready",),
    "named": ("ready", "advance"),
    "agreed": ("ready", "advance", "agreed"),
    "ended": ("ended",),
    "over": ("ready", "advance", "agreed", "advance"),
}
_STAYS: list[Action] = []
_NAMES: list[Action] = [Name(A)]
_WINS: list[Action] = [Cancel(B, Reason.OTHER_PIPE_WON), Finish(A, None, ())]
_STOPS: list[Action] = [Cancel(A, Reason.STOPPED), Cancel(B, Reason.STOPPED), Finish(None, Reason.STOPPED, ())]
_STOPS_B: list[Action] = [Cancel(B, Reason.STOPPED), Finish(None, Reason.STOPPED, ())]


@pytest.mark.parametrize(
    ("state", "on_ready", "on_agreed", "on_ended", "on_stop"),
    [
        ("running", _NAMES, _STAYS, _STAYS, _STOPS),
        ("ready", _NAMES, _NAMES, _STAYS, _STOPS),
        ("named", _STAYS, _WINS, _STAYS, _STOPS),
        ("agreed", _WINS, _WINS, _WINS, _WINS),
        ("ended", _STAYS, _STAYS, _STAYS, _STOPS_B),
        ("over", _STAYS, _STAYS, _STAYS, _STAYS),
    ],
)
def test_every_state_takes_every_input(
    state: str, on_ready: list[Action], on_agreed: list[Action], on_ended: list[Action], on_stop: list[Action]
) -> None:
    for what, expected in (("ready", on_ready), ("agreed", on_agreed), ("ended", on_ended), ("stop", on_stop)):
        walk = Walk(plan(STRICT, direct=(A, B)))
        walk.advance(0)
        for step in (*_STATES[state], what):
            if step == "advance":
                walk.advance(0)
            elif step == "stop":
                walk.stop(Reason.STOPPED)
            else:
                getattr(walk, step)(A)
        assert walk.advance(0) == expected, f"{what} in {state}"


@pytest.mark.parametrize("what", ["ready", "agreed", "ended"])
def test_what_was_never_started_changes_nothing(what: str) -> None:
    walk = Walk(plan(STRICT, direct=(A,), relay=(B,)))
    walk.advance(0)
    getattr(walk, what)(B)
    assert walk.advance(0) == []


_INPUTS = st.one_of(
    st.tuples(st.sampled_from(["ready", "agreed", "ended"]), st.sampled_from(COMBOS)),
    st.tuples(st.just("time"), st.floats(0, 10)),
    st.just(("stop", None)),
)


@given(st.sampled_from([STRICT, STAGGERED, RELAY_FIRST]), _PLACES, st.lists(_INPUTS, max_size=40))
def test_whatever_happens_the_walk_keeps_its_promises(  # noqa: C901 - one promise a branch
    numbers: WalkNumbers, places: tuple[Phase, ...], inputs: list[tuple[str, Combo | float | None]]
) -> None:
    phase_of = dict(zip(COMBOS, places, strict=True))
    carriers = {c for c in COMBOS if numbers.upgrades and phase_of[c] is RELAY}
    walk = Walk(plan(numbers, **{p.value: tuple(c for c in COMBOS if phase_of[c] is p) for p in Phase}))
    elapsed_s, live, named, started = 0.0, set(), set(), set()
    finish: Finish | None = None
    agreed: set[Combo] = set()
    for what, value in [("time", 0.0), *inputs, ("time", numbers.deadline_s)]:
        if what == "time":
            elapsed_s += value  # type: ignore[operator]
        elif what == "stop":
            walk.stop(Reason.STOPPED)
        else:
            getattr(walk, what)(value)
            if what == "ended":
                live.discard(value)
                named.discard(value)
            if what == "agreed" and finish is None:
                agreed |= {value} & named  # type: ignore[arg-type]
                named -= {value} & carriers  # type: ignore[arg-type]
        actions = walk.advance(elapsed_s)
        assert finish is None or actions == []
        for action in actions:
            if isinstance(action, Start):
                assert action.combo not in started
                if numbers is STRICT:
                    assert {phase_of[c] for c in live} <= {action.phase}
                live.add(action.combo)
                started.add(action.combo)
            elif isinstance(action, Name | Move):
                assert not named, "one at a time"
                assert action.combo in live
                assert isinstance(action, Move) == bool(agreed)
                assert not agreed & {action.combo, *(carriers if action.combo in carriers else ())}
                named.add(action.combo)
            elif isinstance(action, Cancel):
                assert action.combo in live - agreed
                live.discard(action.combo)
            else:
                assert action is actions[-1]
                finish = action
    assert finish is not None, "over by the deadline"
    assert live <= agreed, "what did not win is cancelled"
    assert (finish.winner is None) == (finish.reason is not None)
    assert (agreed - carriers or agreed) == ({finish.winner} if finish.winner else set())
    assert {s.combo for s in finish.untried} == set(COMBOS) - started


def test_the_wakeups_alone_carry_a_walk_to_its_deadline() -> None:
    walk = Walk(plan(STAGGERED, direct=(A,), punch=(B,), spray=(C,), relay=(D,)))
    times = []
    now_s = 0.0
    while not walk.finished:
        times.append((now_s, [a.combo for a in walk.advance(now_s) if isinstance(a, Start)]))
        now_s = walk.next_wakeup_s()
    assert times == [(0, [A]), (0.3, [C]), (1.0, [B]), (2.5, [D]), (30, [])]
