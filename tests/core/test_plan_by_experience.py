"""What experience adds to a plan: long shots that are left out, combos that are moved, known round trips."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_ends import CONE, FAR_HOME, FLATMATE, HEARING, HOME, OFFICE, OPEN, SERVER, TECHNIQUES, UNPROBED, planned, read
from policy_numbers import EXT, RELAY_FIRST, STAGGERED, STRICT

from warpfleet.core.combo import Combo, Reason
from warpfleet.core.exit import Exit
from warpfleet.core.experience import Between, Experience, Inbound, RoundTrip, Subject, Track
from warpfleet.core.nat import NatBehaviour
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Pin, Plan, Planned, make_plan, subjects
from warpfleet.core.walk import Start, Walk

REALM = "r"
HOME_EXIT, SERVER_EXIT = Exit(REALM, 4, "198.51.100.1"), Exit(REALM, 4, "203.0.113.5")
RULED_OUT = Reason.EXPERIENCE_RULES_OUT
PUNCHED = Between(REALM, "punch", 4, CONE.signature, CONE.signature)


def known(tracks: dict[Subject, Track]) -> Experience:
    return Experience(REALM, tracks)


def record(wins: int, tries: int, connect_ms: float | None = None) -> Track:
    return Track(tries=tries, wins=wins, last_at=0, connect_ms=connect_ms)


def advised_against(plan: Plan) -> dict[str, str | None]:
    return {f"{s.combo.plugin}/{s.combo.route}": s.advice for s in plan.skipped if s.reason is RULED_OUT}


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
