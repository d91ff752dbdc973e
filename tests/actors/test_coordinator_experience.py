"""What a coordinator asks the observatory, what it makes of the answer, and what it teaches."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from coordinator_world import CONE, PUNCH, RELAY, REQUEST, SWEEP, O, World

from virtual_time import now_s, virtual_time
from warpfleet.actors.values import CancelAttempt, StartAttempt
from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Policy, Reason
from warpfleet.core.exit import Exit
from warpfleet.core.experience import Between, Evidence, Inbound, RoundTrip, Subject, Track


class Observatory:
    """Knows these tracks, keeps what it is taught; answers after a while, or raises."""

    def __init__(
        self, tracks: dict[Subject, Track] | None = None, *, delay_s: float = 0, error: Exception | None = None
    ) -> None:
        self.known, self.delay_s, self.error = tracks or {}, delay_s, error
        self.asked: list[Sequence[Subject]] = []
        self.taught: list[Evidence] = []

    async def tracks(self, subjects: Sequence[Subject]) -> dict[Subject, Track]:
        self.asked.append(subjects)
        await self._answer()
        return {subject: track for subject, track in self.known.items() if subject in subjects}

    async def learn(self, evidence: Sequence[Evidence]) -> None:
        await self._answer()
        self.taught += evidence

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.error:
            raise self.error


def inbound(ip: str, plugin: str) -> Inbound:
    return Inbound(Exit("internet", 4, ip), plugin)


PUNCHED = Between("internet", PUNCH, 4, CONE.signature, CONE.signature)
NEVER, ALWAYS = Track(tries=9, wins=0, last_at=0), Track(tries=9, wins=9, last_at=0, connect_ms=2000.0)


@virtual_time
async def test_the_observatory_is_asked_about_what_the_plan_may_use() -> None:
    observatory = Observatory()
    world = World(udp_punch="wins", observatory=observatory)
    await world.begin()
    await world.row()
    dials = [
        inbound(ip, plugin)
        for ip in ("198.51.100.1", "198.51.100.2")
        for plugin in ("direct_connect", "reverse_connect")
    ]
    (asked,) = observatory.asked
    round_trips = {RoundTrip("internet", p, 4, "198.51.100.1", "198.51.100.2") for p in (PUNCH, RELAY)}
    punched = {replace(PUNCHED, plugin=plugin) for plugin in (PUNCH, "tcp_punch")}
    assert set(asked) == {*punched, *dials, *round_trips}


@virtual_time
async def test_what_never_worked_is_left_out_and_the_row_says_why() -> None:
    dials = {inbound("198.51.100.2", "direct_connect"): NEVER}
    world = World(udp_punch="wins", direct_connect="wins", observatory=Observatory(dials))
    await world.begin()
    assert (await world.row()).plugin == PUNCH
    assert world.hosts["direct_connect"].commands == []
    (left_out,) = [r for r in world.telemetry.attempt_rows if r.reason is Reason.EXPERIENCE_RULES_OUT]
    assert (left_out.plugin, left_out.outcome) == ("direct_connect", O.SKIPPED)
    assert left_out.advice == "0 of 9 tries reached TCP listeners behind 198.51.100.2 in the last 24 h"


@virtual_time
async def test_of_a_crowd_a_few_try_what_is_unlikely_and_the_next_ones_again() -> None:
    world = World(udp_punch="wins", direct_connect="silent")
    await world.begin()
    crowd = [replace(REQUEST, connection_id=f"{number:032x}") for number in range(8)]
    await world.coordinator.connect(crowd)
    await asyncio.sleep(1.2)
    dials = world.hosts["direct_connect"].commands
    assert len([c for c in dials if isinstance(c, StartAttempt)]) == 4, "of nine at once"
    await asyncio.sleep(10)
    left_out = [r for r in world.telemetry.attempt_rows if r.reason is Reason.EXPERIENCE_RULES_OUT]
    assert {r.advice for r in left_out} == {"others try TCP listeners behind 198.51.100.2 just now"}
    dials.clear()
    await world.coordinator.connect([replace(REQUEST, connection_id="f" * 32)])
    await asyncio.sleep(10)
    assert [type(c) for c in dials] == [StartAttempt, CancelAttempt]
    await world.coordinator.close()


@virtual_time
@pytest.mark.parametrize(("script", "outcome"), [("wins", O.SKIPPED), ("slow", O.WON)])
async def test_what_was_moved_says_so_whether_started_or_not(script: str, outcome: AttemptOutcome) -> None:
    world = World(udp_punch=script, turn="wins", observatory=Observatory({PUNCHED: ALWAYS}))
    await world.begin()
    await world.row()
    (relay,) = [r for r in world.telemetry.attempt_rows if r.plugin == RELAY and r.af == 4]
    assert relay.outcome is outcome
    assert (relay.advice or "").startswith("moved from 2.50 s to 3.00 s: udp_punch")
    if outcome is O.WON:
        assert relay.started_ms == pytest.approx(3000)


@virtual_time
@pytest.mark.parametrize(
    ("observatory", "late_ms"),
    [(Observatory({PUNCHED: NEVER}, delay_s=10), 250), (Observatory({PUNCHED: NEVER}, error=OSError("gone")), 0)],
)
async def test_an_observatory_that_does_not_answer_is_done_without(observatory: Observatory, late_ms: float) -> None:
    world = World(udp_punch="wins", observatory=observatory)
    await world.begin()
    row = await world.row()
    assert (row.plugin, row.connect_ms) == (PUNCH, pytest.approx(1500 + late_ms))


@virtual_time
async def test_a_connection_does_not_wait_for_what_it_teaches() -> None:
    world = World(udp_punch="wins", observatory=Observatory(delay_s=0.2))
    await world.begin()
    await world.coordinator.finished(SWEEP, 120)
    assert now_s() == pytest.approx(1.95)


@virtual_time
async def test_the_strict_policy_asks_for_nothing_and_teaches_all_the_same() -> None:
    observatory = Observatory()
    world = World(udp_punch="fails", turn="wins", observatory=observatory)
    await world.begin(replace(REQUEST, policy=Policy.STRICT))
    await world.row()
    assert observatory.asked == []
    assert {e.subject: e.worked for e in observatory.taught}[PUNCHED] is False


@virtual_time
async def test_a_connection_with_a_pipe_teaches_how_each_attempt_did() -> None:
    observatory = Observatory()
    world = World(udp_punch="slow", turn="wins", observatory=observatory)
    await world.begin(replace(REQUEST, realm="lab"))
    await world.row()
    relayed, punched = replace(PUNCHED, realm="lab", plugin=RELAY), replace(PUNCHED, realm="lab")
    taught = {e.subject: e for e in observatory.taught}
    path = RoundTrip("lab", RELAY, 4, "198.51.100.1", "198.51.100.2")
    assert taught.keys() == {relayed, punched, path}
    assert taught[path].rtt_ms == 80.0
    assert (taught[relayed].connect_ms, taught[relayed].rtt_ms) == (pytest.approx(1500), 80.0)
    assert (taught[punched].worked, taught[punched].connect_ms) == (False, None)
    assert taught[punched].at == pytest.approx(time.time(), abs=60)


@virtual_time
@pytest.mark.parametrize(
    "scripts",
    [
        {"udp_punch": "fails", "turn": "fails"},
        {"udp_punch": "silent", "turn": "silent"},
        {"get_addr": "cancellable", "udp_punch": "fails"},
    ],
)
async def test_a_connection_without_a_pipe_teaches_nothing(scripts: dict[str, str]) -> None:
    observatory = Observatory()
    world = World(observatory=observatory, **scripts)
    await world.begin()
    assert (await world.row()).outcome is ConnectionOutcome.FAILED
    assert observatory.taught == []


@virtual_time
async def test_closing_waits_two_seconds_for_an_observatory_that_hangs() -> None:
    world = World(udp_punch="wins", observatory=Observatory(delay_s=100))
    await world.begin()
    await world.coordinator.finished(SWEEP, 120)
    before_s = now_s()
    await world.coordinator.close()
    assert now_s() - before_s == pytest.approx(2)
