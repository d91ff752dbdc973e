"""The plan, which reads like a specification: what is tried, when, and what is skipped, why."""

from dataclasses import replace

import pytest
from plan_ends import (
    BLOCKED_HOME,
    CONE,
    FAR_HOME,
    FLATMATE,
    HEARING,
    HOME,
    OFFICE,
    OPEN,
    SAME_BOX,
    SERVER,
    TECHNIQUES,
    UNPROBED,
    peer,
    planned,
    read,
    technique,
)
from policy_numbers import EXT, NIC, RELAY_FIRST, SPRAY, STAGGERED, STRICT

from warpfleet.core.combo import Combo, Reason
from warpfleet.core.endpoint import Interface
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Pin, Planned, WalkNumbers, make_plan

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
