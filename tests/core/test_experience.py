"""What an attempt teaches, about what, and how good a track is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.combo import AttemptOutcome, Combo, Reason, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.exit import Exit
from warpfleet.core.experience import (
    Between,
    Ended,
    Evidence,
    Experience,
    Inbound,
    Subject,
    Track,
    evidence,
    subject_of,
    track,
)
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import PeerView

EXT, NIC = RouteType.EXT, RouteType.NIC
CONE = NatBehaviour(translated=True, mapping=Mapping.EIM, filtering=Filtering.APDF, udp=True)
OPEN = NatBehaviour(translated=False, mapping=Mapping.EIM, filtering=Filtering.EIF, udp=True)
ALICE = PeerView(name="alice", machine="a", external={4: "198.51.100.1", 6: "2001:db8:1::5"}, nat={4: CONE})
BOB = PeerView(name="bob", machine="b", external={4: "198.51.100.2", 6: "2001:db8:2::7"}, nat={4: OPEN})
DIAL, PUNCH = Combo("dial", 4, EXT), Combo("punch", 4, EXT)
SUBJECT = Inbound(Exit("r", 4, "198.51.100.2"), "dial")
NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("requirement", "combo", "subject"),
    [
        (Requirement.PEER_REACHABLE, DIAL, Inbound(Exit("r", 4, "198.51.100.2"), "dial")),
        (Requirement.SELF_REACHABLE, DIAL, Inbound(Exit("r", 4, "198.51.100.1"), "dial")),
        (Requirement.PEER_REACHABLE, replace(DIAL, af=6), Inbound(Exit("r", 6, "2001:db8:2::/64"), "dial")),
        (Requirement.PUNCHABLE, PUNCH, Between("r", "punch", 4, CONE.signature, OPEN.signature)),
        (Requirement.RELAY, PUNCH, Between("r", "punch", 4, CONE.signature, OPEN.signature)),
        (Requirement.SIGNAL, PUNCH, None),
        (Requirement.PEER_LISTENING, PUNCH, None),
        (Requirement.PEER_REACHABLE, replace(DIAL, route=NIC), None),
        (Requirement.PUNCHABLE, replace(PUNCH, route=RouteType.LOOPBACK), None),
    ],
)
def test_what_an_attempt_is_evidence_about(requirement: Requirement, combo: Combo, subject: Subject | None) -> None:
    assert subject_of(requirement, combo, ALICE, BOB, "r") == subject


@pytest.mark.parametrize("requirement", [Requirement.PEER_REACHABLE, Requirement.SELF_REACHABLE, Requirement.PUNCHABLE])
@pytest.mark.parametrize("af", [4, 6])
def test_hairpinning_behind_one_exit_says_nothing_about_the_rest_of_the_world(
    requirement: Requirement, af: int
) -> None:
    flatmate = replace(BOB, external={4: "198.51.100.1", 6: "2001:db8:1::9"})
    assert subject_of(requirement, Combo("p", af, EXT), ALICE, flatmate, "r") is None


def test_an_end_without_an_external_address_has_no_exit_to_come_in_by() -> None:
    assert subject_of(Requirement.PEER_REACHABLE, DIAL, ALICE, replace(BOB, external={}), "r") is None


def test_a_mapped_port_says_nothing_about_the_other_hosts_of_its_exit() -> None:
    mapped = BOB.with_mapped([Endpoint("198.51.100.2", 5555)])
    assert subject_of(Requirement.PEER_REACHABLE, DIAL, ALICE, mapped, "r") is None
    assert subject_of(Requirement.SELF_REACHABLE, DIAL, mapped, ALICE, "r") is None
    assert subject_of(Requirement.SELF_REACHABLE, DIAL, ALICE, mapped, "r") is not None


def taught(
    outcome: AttemptOutcome, reason: Reason | None, ran_ms: float, *, pipe: Combo = PUNCH, rtt_ms: float | None = 80.0
) -> bool | None:
    """Whether an attempt to dial worked, as evidence has it; None where it teaches nothing."""
    learnt = evidence(SUBJECT, Ended(DIAL, outcome, reason, ran_ms), pipe, rtt_ms, NOW)
    return learnt.worked if learnt else None


NETWORK_SAID_NO = (Reason.REFUSED, Reason.UNREACHABLE, Reason.RESET, Reason.NO_ANSWER)


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_the_network_answered_is_a_fair_failure(reason: Reason) -> None:
    expected = False if reason in NETWORK_SAID_NO else None
    assert taught(AttemptOutcome.FAILED, reason, 1.0) is expected
    assert taught(AttemptOutcome.TIMEOUT, reason, 5000.0) is expected
    assert taught(AttemptOutcome.CANCELLED, reason, 5000.0) is (False if reason is Reason.OTHER_PIPE_WON else None)


@pytest.mark.parametrize(
    ("ran_ms", "rtt_ms", "verdict"),
    [
        (319.9, 80.0, None),
        (320.0, 80.0, False),
        (49.9, 1.0, None),
        (50.0, 1.0, False),
        (5000.0, None, None),
    ],
)
def test_who_was_outrun_must_have_had_four_round_trips(
    ran_ms: float, rtt_ms: float | None, verdict: bool | None
) -> None:
    assert taught(AttemptOutcome.CANCELLED, Reason.OTHER_PIPE_WON, ran_ms, rtt_ms=rtt_ms) is verdict


@pytest.mark.parametrize(("ran_ms", "learns"), [(119.9, False), (120.0, True)])
def test_a_dial_that_nothing_has_answered_must_have_had_one_and_a_half(ran_ms: float, learns: bool) -> None:
    ended = Ended(DIAL, AttemptOutcome.CANCELLED, Reason.OTHER_PIPE_WON, ran_ms, unanswered=True)
    assert evidence(SUBJECT, ended, PUNCH, 80.0, NOW) == (Evidence(SUBJECT, False, NOW) if learns else None)


@pytest.mark.parametrize(("ran_ms", "learns"), [(639.9, False), (640.0, True)])
def test_a_punch_that_was_outrun_must_have_had_eight(ran_ms: float, learns: bool) -> None:
    between = Between("r", "punch", 4, CONE.signature, OPEN.signature)
    ended = Ended(PUNCH, AttemptOutcome.CANCELLED, Reason.OTHER_PIPE_WON, ran_ms)
    assert (evidence(between, ended, DIAL, 80.0, NOW) is not None) is learns


def test_a_pipe_inside_the_network_is_no_measure_for_a_path_over_the_internet() -> None:
    inside = Combo("dial", 4, NIC)
    assert taught(AttemptOutcome.CANCELLED, Reason.OTHER_PIPE_WON, 5000.0, pipe=inside, rtt_ms=0.5) is None


def test_the_pipe_is_timed_and_what_worked_too_is_not() -> None:
    won, lost = Ended(DIAL, AttemptOutcome.WON, None, 250.0), Ended(PUNCH, AttemptOutcome.LOST, None, 300.0)
    assert evidence(SUBJECT, won, DIAL, 80.0, NOW) == Evidence(SUBJECT, True, NOW, 250.0, 80.0)
    assert evidence(SUBJECT, lost, DIAL, 80.0, NOW) == Evidence(SUBJECT, True, NOW)


def tried(*worked: bool) -> list[Evidence]:
    return [Evidence(SUBJECT, one, NOW + i, 100.0 if one else None) for i, one in enumerate(worked)]


@pytest.mark.parametrize(
    ("worked", "proved"),
    [((True,) * 3, True), ((True,) * 2, False), ((True,) * 9 + (False,), True), ((True,) * 8 + (False,), False)],
)
def test_a_track_is_proved_by_three_wins_in_nine_of_ten_tries(worked: tuple[bool, ...], proved: bool) -> None:
    assert track(tried(*worked)).proved is proved


def test_the_last_times_weigh_most() -> None:
    times = [Evidence(SUBJECT, True, NOW, ms, 80.0) for ms in (100.0, 100.0, 200.0)]
    assert track(times) == Track(tries=3, wins=3, last_at=NOW, connect_ms=125.0, rtt_ms=80.0)


_TIMES = st.floats(0.1, 60_000)


@given(st.lists(st.builds(Evidence, st.just(SUBJECT), st.booleans(), _TIMES, st.none() | _TIMES), min_size=1))
def test_a_track_sums_up_its_evidence(tries: list[Evidence]) -> None:
    found = track(tries)
    times = [e.connect_ms for e in tries if e.connect_ms is not None]
    assert (found.tries, found.wins) == (len(tries), sum(e.worked for e in tries))
    assert found.last_at in {e.at for e in tries}
    if found.connect_ms is None:
        assert not times
    else:
        assert min(times) - 1e-6 <= found.connect_ms <= max(times) + 1e-6


@pytest.mark.parametrize(
    ("dialled", "reversed_", "hopeless"),
    [((0, 8), (0, 0), True), ((0, 4), (0, 4), True), ((0, 4), (0, 3), False), ((0, 20), (1, 1), False)],
)
def test_an_exit_is_hopeless_after_eight_tries_of_any_plugin(
    dialled: tuple[int, int], reversed_: tuple[int, int], hopeless: bool
) -> None:
    tracks: dict[Subject, Track] = {
        replace(SUBJECT, plugin=plugin): Track(tries=tries, wins=wins, last_at=NOW)
        for plugin, (wins, tries) in (("dial", dialled), ("reverse", reversed_))
        if tries
    }
    assert Experience("r", tracks).hopeless(SUBJECT) is hopeless
