"""Which attempts a peer may open, and how many."""

from types import SimpleNamespace
from typing import Any

import pytest

from fake_node import ALICE, ATTEMPT_ID, BOB, CONNECTION_ID, MALLORY, STARTED_AT_US
from warpfleet.actors.admission import Admission
from warpfleet.actors.values import IncomingSignal
from warpfleet.core.combo import Combo, RouteType, Side
from warpfleet.core.identity import PublicIdentity
from warpfleet.plugins.attempt_context import AttemptSpec
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.udp_punch import UdpPunch
from warpfleet.plugins.udp_punch.messages import Answer, Offer

HEAD = {"attempt_id": ATTEMPT_ID, "started_at_us": STARTED_AT_US, "af": 4, "route": RouteType.EXT, "timeout_s": 15.0}
NODE: Any = SimpleNamespace(name="alice", factory=UdpPunch, wishes=frozenset())
IDLE: Any = SimpleNamespace(name="idle", factory=None, wishes=frozenset())


def spec(connection_id: str = CONNECTION_ID, route: RouteType = RouteType.EXT) -> AttemptSpec:
    return AttemptSpec(
        attempt_id=ATTEMPT_ID,
        connection_id=connection_id,
        started_at_us=STARTED_AT_US,
        side=Side.RESPONDER,
        combo=Combo("udp_punch", 4, route),
        timeout_s=15.0,
    )


def opened_by(peer: PublicIdentity, count: int, side: Side = Side.RESPONDER, node: Any = NODE) -> list[Any]:
    return [SimpleNamespace(node=node, context=SimpleNamespace(side=side, peer=peer))] * count


def signal(kind: type[AttemptMessage]) -> IncomingSignal:
    message = kind.model_validate(HEAD | {"candidates": ("203.0.113.1:4000",)})
    return IncomingSignal("alice", "bob", CONNECTION_ID, "udp_punch", ATTEMPT_ID, message)


@pytest.mark.parametrize(
    ("running", "admitted"),
    [
        (opened_by(BOB.public, 47), True),
        (opened_by(BOB.public, 48), False),
        (opened_by(BOB.public, 48, Side.INITIATOR), True),
        (opened_by(BOB.public, 48, node=IDLE), True),
        (opened_by(MALLORY.public, 48), True),
        (opened_by(MALLORY.public, 48) * 2 + opened_by(ALICE.public, 31), True),
        (opened_by(MALLORY.public, 48) * 2 + opened_by(ALICE.public, 32), False),
    ],
)
def test_one_peer_leaves_room_for_others_and_all_together_for_the_node(running: list[Any], admitted: bool) -> None:
    assert Admission(UdpPunch, running).admits(NODE, BOB.public, spec()) is admitted


def test_what_no_plugin_of_ours_would_open_is_refused() -> None:
    admission = Admission(UdpPunch, [])
    assert not admission.admits(NODE, BOB.public, spec(connection_id="../" + CONNECTION_ID[3:]))
    assert not admission.admits(NODE, BOB.public, spec(route=RouteType.LOOPBACK)), "it has no such route"
    assert not admission.admits(IDLE, BOB.public, spec()), "the plugin does not serve the node"


def test_a_message_opens_an_attempt_once() -> None:
    admission = Admission(UdpPunch, [])
    assert admission.by_message(NODE, signal(Answer)) is None, "an answer opens nothing"
    opened = admission.by_message(NODE, signal(Offer))
    assert opened
    assert (opened.side, opened.combo, opened.opening) == (Side.RESPONDER, spec().combo, signal(Offer).message)
    admission.ended("alice", opened)
    assert admission.by_message(NODE, signal(Offer)) is None, "it is over"
    assert admission.by_message(SimpleNamespace(name="carol", wishes=NODE.wishes), signal(Offer))  # type: ignore[arg-type]
