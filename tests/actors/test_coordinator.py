"""One row for each connection, whatever happens: plugins that win, fail, fall silent and die, on exact times."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fake_node import view
from virtual_time import now_s, virtual_time
from warpfleet.actors.coordinator import Coordinator, ObservatoryPort, RecordView
from warpfleet.actors.values import (
    CancelAttempt,
    Command,
    ConnectionRequest,
    NameWinner,
    PipeFacts,
    Report,
    Stage,
    StartAttempt,
)
from warpfleet.core.combo import AttemptOutcome, Combo, ConnectionOutcome, Policy, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.exit import Exit
from warpfleet.core.experience import Between, Evidence, Inbound, RoundTrip, Subject, Track
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Pin
from warpfleet.plugins.loader import registrations
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, Row, StartedRow

O = AttemptOutcome  # noqa: E741
CONE = NatBehaviour(translated=True, mapping=Mapping.EIM, filtering=Filtering.APDF, udp=True)
# Behind such NATs a punch and a relay are tried: the one at once, the other after 2.5 s or when the punch has failed.
PUNCH, RELAY = "udp_punch", "turn"
SWEEP, CONNECTION = "sweep", "c1" * 16


class Telemetry:
    """Keeps the rows; raises where it is told to."""

    def __init__(self) -> None:
        self.rows: list[ConnectionRow] = []
        self.attempt_rows: list[AttemptRow] = []
        self.begun: list[StartedRow] = []
        self.broken: set[type[Row]] = set()

    async def write(self, rows: Sequence[Row]) -> dict[str, str]:
        if any(type(row) in self.broken for row in rows):
            return {SWEEP: "disk full"}
        for row in rows:
            if isinstance(row, AttemptRow):
                self.attempt_rows.append(row)
            elif isinstance(row, ConnectionRow):
                self.rows.append(row)
            elif isinstance(row, StartedRow):
                self.begun.append(row)
        return {}

    def ends(self) -> dict[str, tuple[AttemptOutcome, Reason | None]]:
        """How the attempts ended that were started."""
        return {r.plugin: (r.outcome, r.reason) for r in self.attempt_rows if r.outcome is not O.SKIPPED}


class Host:
    """A plugin's host: does with each attempt what its `script` says."""

    def __init__(self, coordinator: Coordinator, plugin: str, script: str) -> None:
        self.coordinator, self.plugin, self.script = coordinator, plugin, script
        self.commands: list[Command] = []
        self.orders: dict[str, StartAttempt] = {}
        self.begun_s: dict[str, float] = {}
        self.work: set[asyncio.Task[None]] = set()

    async def take(self, commands: list[Command]) -> None:
        self.commands += commands
        for command in commands:
            if isinstance(command, StartAttempt):
                self.orders[command.attempt_id] = command
                self.begun_s[command.attempt_id] = asyncio.get_running_loop().time()
            if self.script != "silent":
                task = asyncio.create_task(self._act(command))
                self.work.add(task)
                task.add_done_callback(self.work.discard)

    async def _act(self, command: Command) -> None:
        attempt = command.attempt_id
        if isinstance(command, StartAttempt) and self.script == "fails":
            await asyncio.sleep(1)
            await self.say(attempt, Stage.ENDED, outcome=O.FAILED, reason=Reason.NO_ANSWER)
        elif isinstance(command, StartAttempt) and self.script.startswith("wins"):
            await asyncio.sleep(1)
            await self.say(attempt, Stage.READY)
        elif isinstance(command, NameWinner) and self.script != "wins never":
            await asyncio.sleep(0.5)
            await self.won(attempt)
        elif isinstance(command, CancelAttempt):
            await self.say(attempt, Stage.ENDED, outcome=O.CANCELLED, reason=command.reason)

    async def won(self, attempt: str) -> None:
        local, remote = Endpoint("192.168.1.2", 4000), Endpoint("198.51.100.2", 5000)
        facts = PipeFacts(Transport.UDP, self.plugin == RELAY, local, remote)
        await self.say(attempt, Stage.WON, outcome=O.WON, pipe=facts)
        if self.script != "wins unmeasured":
            await asyncio.sleep(0.25)
            at_s = asyncio.get_running_loop().time()
            await self.say(attempt, Stage.MEASURED, first_byte_at_s=at_s, rtt_ms=80.0)

    async def say(self, attempt: str, stage: Stage, **facts: object) -> None:
        order = self.orders[attempt]
        report = Report(
            stage=stage,
            node=order.node,
            peer=order.peer,
            attempt_id=attempt,
            connection_id=order.connection_id,
            side=Side.INITIATOR,
            combo=order.combo,
            begun_s=self.begun_s[attempt],
            at_s=asyncio.get_running_loop().time(),
            started_at_us=order.started_at_us,
            **facts,  # type: ignore[arg-type]
        )
        await self.coordinator.report([report])

    def told(self, kind: type[Command]) -> list[Command]:
        return [command for command in self.commands if isinstance(command, kind)]


def home(name: str, ip: str) -> PeerView:
    return replace(view(name, "192.168.1.2", nat={4: CONE}, relay=True), external={4: ip})


ALICE, BOB = home("alice", "198.51.100.1"), home("bob", "198.51.100.2")
REQUEST = ConnectionRequest(
    sweep_id=SWEEP,
    connection_id=CONNECTION,
    initiator="alice",
    responder="bob",
    repeat=0,
    policy=Policy.STAGGERED,
)


class World:
    """A coordinator, its telemetry, and a host for each plugin; those without a script do not serve Alice."""

    def __init__(self, *, missing: str = "", observatory: ObservatoryPort | None = None, **scripts: str) -> None:
        self.telemetry = Telemetry()
        self.coordinator = Coordinator(self.telemetry, observatory)
        self.idle = [r.name for r in registrations() if r.name not in (*scripts, missing)]
        scripts |= dict.fromkeys(self.idle, "silent")
        self.hosts = {plugin: Host(self.coordinator, plugin, script) for plugin, script in scripts.items()}

    async def begin(self, request: ConnectionRequest = REQUEST, *, known: Sequence[PeerView] = (ALICE, BOB)) -> None:
        await self.coordinator.bind({plugin: host.take for plugin, host in self.hosts.items()})
        await self.coordinator.opted_out([(plugin, "alice") for plugin in self.idle])
        await self.know(*known)
        await self.coordinator.connect([request])

    async def know(self, *views: PeerView) -> None:
        await self.coordinator.learn({v.name: RecordView(v, time.time() + 3600) for v in views})

    async def row(self) -> ConnectionRow:
        """The one row of the one connection."""
        (row,) = await self.coordinator.finished(SWEEP, 120)
        assert await self.coordinator.finished(SWEEP, 60) == []
        if not self.telemetry.broken:
            assert self.telemetry.rows == [row]
            assert len(self.telemetry.begun) == 1
        await self.coordinator.close()
        return row


@virtual_time
async def test_a_direct_win() -> None:
    world = World(udp_punch="wins", turn="silent")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.plugin, row.phase, row.reason) == (ConnectionOutcome.DIRECT, PUNCH, "spray", None)
    assert (row.connect_ms, row.first_byte_ms, row.rtt_ms) == pytest.approx((1500, 1750, 80))
    assert (row.initiator_nat, row.responder_nat) == ("port_restricted", "port_restricted")
    assert world.telemetry.ends() == {PUNCH: (O.WON, None)}
    assert world.hosts[RELAY].commands == [], "the relay's time never came"
    skipped = {(r.plugin, r.reason) for r in world.telemetry.attempt_rows if r.outcome is O.SKIPPED}
    assert (RELAY, Reason.NOT_NEEDED) in skipped
    assert ("direct_connect", Reason.OPTED_OUT) in skipped


@virtual_time
async def test_the_relay_wins_where_the_punch_has_failed() -> None:
    world = World(udp_punch="fails", turn="wins")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.plugin, row.connect_ms) == (ConnectionOutcome.RELAYED, RELAY, pytest.approx(2500))
    assert world.telemetry.ends() == {PUNCH: (O.FAILED, Reason.NO_ANSWER), RELAY: (O.WON, None)}


@virtual_time
async def test_the_loser_is_cancelled() -> None:
    world = World(udp_punch="slow", turn="wins")
    await world.begin()
    row = await world.row()
    assert (row.plugin, row.connect_ms) == (RELAY, pytest.approx(4000))
    assert world.telemetry.ends()[PUNCH] == (O.CANCELLED, Reason.OTHER_PIPE_WON)


@virtual_time
async def test_everything_failed() -> None:
    world = World(udp_punch="fails", turn="fails")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.reason, row.plugin) == (ConnectionOutcome.FAILED, Reason.ALL_FAILED, None)
    assert "udp_punch/IPv4/ext: no_answer" in (row.error or "")
    assert (row.connect_ms, row.first_byte_ms) == (None, None)


@virtual_time
async def test_hosts_that_never_say_a_word_cost_the_deadline_and_not_much_more() -> None:
    world = World(udp_punch="silent", turn="silent")
    await world.begin()
    (row,) = await world.coordinator.finished(SWEEP, 120)
    assert now_s() == pytest.approx(32)
    assert (row.outcome, row.reason) == (ConnectionOutcome.FAILED, Reason.DEADLINE)
    assert world.telemetry.rows == [row]
    assert set(world.telemetry.ends().values()) == {(O.FAILED, Reason.ACTOR_DIED)}
    assert all(world.hosts[plugin].told(CancelAttempt) for plugin in (PUNCH, RELAY))


@virtual_time
async def test_a_pipe_that_is_never_measured_still_counts() -> None:
    world = World(udp_punch="wins unmeasured")
    await world.begin()
    row = await world.row()
    assert (row.outcome, row.first_byte_ms, row.rtt_ms) == (ConnectionOutcome.DIRECT, None, None)


@virtual_time
@pytest.mark.parametrize(
    ("at_s", "outcome", "end"),
    [
        (0.5, ConnectionOutcome.ERROR, (O.FAILED, Reason.ACTOR_DIED)),  # running
        (1.2, ConnectionOutcome.ERROR, (O.FAILED, Reason.ACTOR_DIED)),  # named
        (1.6, ConnectionOutcome.DIRECT, (O.WON, None)),  # being measured
    ],
)
async def test_a_plugin_that_dies_takes_what_ran_in_it(
    at_s: float, outcome: ConnectionOutcome, end: tuple[AttemptOutcome, Reason | None]
) -> None:
    world = World(udp_punch="wins")
    await world.begin()
    await asyncio.sleep(at_s)
    for work in world.hosts[PUNCH].work:
        work.cancel()
    await world.coordinator.plugin_died(PUNCH)
    (row,) = await world.coordinator.finished(SWEEP, 5)
    assert now_s() < at_s + 0.1, "its death is noticed at once"
    assert row.outcome is outcome
    assert world.telemetry.ends() == {PUNCH: end}


@virtual_time
async def test_a_plugin_that_dies_before_its_phase_fails_as_soon_as_that_starts() -> None:
    world = World(udp_punch="fails", turn="wins")
    await world.begin()
    await asyncio.sleep(0.5)
    await world.coordinator.plugin_died(RELAY)
    (row,) = await world.coordinator.finished(SWEEP, 120)
    assert now_s() == pytest.approx(1, abs=0.1)
    assert (row.outcome, row.reason) == (ConnectionOutcome.ERROR, Reason.ACTOR_DIED), "nobody knows how it had ended"
    assert world.telemetry.ends()[RELAY] == (O.FAILED, Reason.ACTOR_DIED)


@virtual_time
@pytest.mark.parametrize(
    ("at_s", "outcome"),
    [
        (0, ConnectionOutcome.CANCELLED),
        (0.5, ConnectionOutcome.CANCELLED),
        (1.2, ConnectionOutcome.CANCELLED),
        (1.6, ConnectionOutcome.DIRECT),
    ],
)
@pytest.mark.parametrize("how", ["stop", "close"])
async def test_stopped_at_any_stage_there_is_one_row(at_s: float, outcome: ConnectionOutcome, how: str) -> None:
    world = World(udp_punch="wins")
    await world.begin()
    await asyncio.sleep(at_s)
    await (world.coordinator.stop(SWEEP) if how == "stop" else world.coordinator.close())
    row = await world.row()
    assert row.outcome is outcome
    assert row.reason is (Reason.STOPPED if outcome is ConnectionOutcome.CANCELLED else None)


@virtual_time
async def test_of_one_pair_so_many_walk_at_once_and_the_others_after_them() -> None:
    world = World(udp_punch="wins")
    await world.begin()
    others = [replace(REQUEST, connection_id=f"{number:032x}") for number in range(1, 40)]
    elsewhere = replace(REQUEST, connection_id="e" * 32, responder="carol")
    await world.know(home("carol", "198.51.100.3"))
    await world.coordinator.connect([*others, elsewhere])
    await asyncio.sleep(1)
    begun = {order.connection_id for order in world.hosts[PUNCH].orders.values()}
    assert len(begun) == len(world.telemetry.begun) == 32 + 1, "none has begun before its turn"
    assert "e" * 32 in begun
    await asyncio.sleep(2.5)
    assert len(world.hosts[PUNCH].orders) == 40 + 1
    rows = await world.coordinator.finished(SWEEP, 60)
    rows += await world.coordinator.finished(SWEEP, 60)
    assert [row.outcome for row in rows] == [ConnectionOutcome.DIRECT] * 41
    assert {round(row.connect_ms or 0) for row in rows} == {1500}, "nobody has waited since it began"
    await world.coordinator.close()


@virtual_time
async def test_who_has_a_relayed_pipe_gives_its_turn_to_others_while_a_direct_path_is_sought() -> None:
    world = World(udp_punch="silent", turn="wins")
    asked = replace(REQUEST, policy=Policy.RELAY_FIRST)
    await world.begin(asked)
    await world.coordinator.connect([replace(asked, connection_id=f"{number:032x}") for number in range(1, 34)])
    await asyncio.sleep(1)
    assert len(world.hosts[RELAY].orders) == 32
    await asyncio.sleep(1)
    assert len(world.hosts[RELAY].orders) == 34
    assert await world.coordinator.finished(SWEEP, 0.1) == [], "all of them still walk"
    await world.coordinator.close()


@virtual_time
async def test_who_waits_for_its_turn_can_be_stopped() -> None:
    world = World(udp_punch="wins never")
    await world.begin()
    others = [replace(REQUEST, connection_id=f"{number:032x}") for number in range(1, 40)]
    await world.coordinator.connect(others)
    await asyncio.sleep(1)
    await world.coordinator.cancel(others[-1].connection_id, Reason.STOPPED)
    (row,) = await world.coordinator.finished(SWEEP, 1)
    assert (row.connection_id, row.outcome) == (others[-1].connection_id, ConnectionOutcome.CANCELLED)
    await world.coordinator.close()
    assert len(await world.coordinator.finished(SWEEP, 1)) == 39


@virtual_time
async def test_an_undecided_agreement_at_the_stop_leaves_no_second_row() -> None:
    world = World(udp_punch="wins never")
    await world.begin()
    await asyncio.sleep(1.2)
    await world.coordinator.stop(SWEEP)
    await asyncio.sleep(0)
    row = await world.row()
    assert row.outcome is ConnectionOutcome.CANCELLED
    assert len([r for r in world.telemetry.attempt_rows if r.plugin == PUNCH and r.outcome is not O.SKIPPED]) == 1


@virtual_time
@pytest.mark.parametrize("broken", [StartedRow, AttemptRow, ConnectionRow])
async def test_telemetry_that_raises_leaves_the_sweep_its_row(broken: type[Row]) -> None:
    world = World(udp_punch="wins")
    world.telemetry.broken = {broken}
    await world.begin()
    row = await world.row()
    if broken is StartedRow:
        assert (row.outcome, row.reason) == (ConnectionOutcome.ERROR, Reason.INTERNAL)
        assert row.error == "MissingError: disk full"
    else:
        assert row.outcome is ConnectionOutcome.DIRECT


@virtual_time
async def test_a_peer_without_a_record_is_asked_for_it() -> None:
    world = World(udp_punch="wins", get_addr="refreshes")
    await world.begin(known=(ALICE,))
    await asyncio.sleep(1)
    (asked,) = world.hosts["get_addr"].orders.values()
    assert asked.combo == Combo("get_addr", 4, RouteType.EXT)
    await world.hosts["get_addr"].say(asked.attempt_id, Stage.ENDED, outcome=O.LOST, reason=Reason.REFRESHED)
    await world.know(BOB)
    row = await world.row()
    assert (row.outcome, row.connect_ms) == (ConnectionOutcome.DIRECT, pytest.approx(2500))
    assert world.telemetry.ends()["get_addr"] == (O.LOST, Reason.REFRESHED)


@virtual_time
@pytest.mark.parametrize(("known", "missing"), [((ALICE,), "bob"), ((BOB,), "alice")])
async def test_without_a_record_there_is_a_row_that_says_so(known: tuple[PeerView, ...], missing: str) -> None:
    world = World(udp_punch="wins", get_addr="cancellable")
    await world.begin(known=known)
    (row,) = await world.coordinator.finished(SWEEP, 60)
    assert (row.outcome, row.reason) == (ConnectionOutcome.FAILED, Reason.NO_RECORD)
    assert row.error == f"{missing} has published no valid address record"
    assert now_s() == pytest.approx(5 if missing == "bob" else 0, abs=0.1)


@virtual_time
async def test_stopped_while_the_peer_is_asked_it_does_not_wait() -> None:
    world = World(get_addr="cancellable")
    await world.begin(known=(ALICE,))
    await asyncio.sleep(1)
    await world.coordinator.stop(SWEEP)
    (row,) = await world.coordinator.finished(SWEEP, 60)
    assert now_s() == pytest.approx(1, abs=0.1)
    assert (row.outcome, row.reason) == (ConnectionOutcome.CANCELLED, Reason.STOPPED)


@virtual_time
async def test_an_expired_record_is_none() -> None:
    world = World(get_addr="cancellable")
    await world.begin(known=(ALICE,))
    await world.coordinator.learn({"bob": RecordView(BOB, time.time() - 1)})
    assert (await world.row()).reason is Reason.NO_RECORD


@virtual_time
async def test_what_opted_out_of_the_initiator_is_not_tried() -> None:
    world = World(udp_punch="wins", turn="wins")
    await world.coordinator.opted_out([(PUNCH, "alice"), (RELAY, "bob")])
    await world.begin()
    assert (await world.row()).plugin == RELAY
    assert world.hosts[PUNCH].commands == []


@virtual_time
async def test_a_host_that_died_is_waited_for_and_then_missing() -> None:
    world = World(udp_punch="wins", missing=RELAY)
    await world.coordinator.plugin_died(RELAY)
    await world.begin(replace(REQUEST, pin=Pin(plugin=RELAY)))
    (row,) = await world.coordinator.finished(SWEEP, 60)
    assert (row.outcome, row.reason) == (ConnectionOutcome.ERROR, Reason.ACTOR_DIED)
    assert now_s() == pytest.approx(20)


@virtual_time
async def test_a_host_that_is_replaced_in_time_is_used() -> None:
    world = World(turn="wins", missing=PUNCH)
    await world.coordinator.plugin_died(PUNCH)
    await world.begin()
    await asyncio.sleep(2)
    late = Host(world.coordinator, PUNCH, "wins")
    await world.coordinator.bind({PUNCH: late.take})
    row = await world.row()
    assert (row.plugin, row.connect_ms) == (PUNCH, pytest.approx(1500)), "its durations count from the real start"


# The observatory


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


# The responder's side


def responder_report(attempt: str, stage: Stage, plugin: str = PUNCH, **facts: object) -> Report:
    at_s = asyncio.get_running_loop().time()
    return Report(
        stage=stage,
        node="bob",
        peer="alice",
        attempt_id=attempt,
        connection_id=CONNECTION,
        side=Side.RESPONDER,
        combo=Combo(plugin, 4, RouteType.EXT),
        begun_s=at_s,
        at_s=at_s,
        started_at_us=int(time.time() * 1_000_000),
        **facts,  # type: ignore[arg-type]
    )


async def responding() -> World:
    world = World(udp_punch="silent", turn="silent")
    await world.coordinator.bind({plugin: host.take for plugin, host in world.hosts.items()})
    return world


@virtual_time
async def test_the_responders_losers_are_cancelled_when_a_pipe_is_taken() -> None:
    world = await responding()
    await world.coordinator.report([responder_report("a1", Stage.OPENED), responder_report("a2", Stage.OPENED, RELAY)])
    await world.coordinator.report([responder_report("a1", Stage.WON, outcome=O.WON)])
    await asyncio.sleep(1)
    assert world.hosts[RELAY].commands == [CancelAttempt("bob", "a2", Reason.OTHER_PIPE_WON)]
    assert world.hosts[PUNCH].commands == []
    await world.coordinator.close()
    assert [(r.attempt_id, r.side, r.outcome) for r in world.telemetry.attempt_rows] == [("a1", Side.RESPONDER, O.WON)]


@virtual_time
async def test_beside_a_relayed_pipe_a_direct_path_is_still_sought() -> None:
    world = await responding()
    relayed = PipeFacts(Transport.UDP, True, Endpoint("203.0.113.2", 1), Endpoint("203.0.113.3", 2))
    await world.coordinator.report([responder_report("a1", Stage.OPENED), responder_report("a2", Stage.OPENED, RELAY)])
    await world.coordinator.report([responder_report("a2", Stage.WON, RELAY, outcome=O.WON, pipe=relayed)])
    await asyncio.sleep(1)
    assert world.hosts[PUNCH].commands == []


@virtual_time
async def test_a_relayed_pipe_that_is_to_move_may_still_be_at_its_tunnel() -> None:
    world = await responding()
    await world.coordinator.report([responder_report("a1", Stage.OPENED), responder_report("a2", Stage.OPENED, RELAY)])
    await world.coordinator.report([responder_report("a1", Stage.WON, outcome=O.WON, moves=RELAY)])
    await asyncio.sleep(1)
    assert world.hosts[RELAY].commands == []


@virtual_time
async def test_an_attempt_that_failed_does_not_cancel_the_others() -> None:
    world = await responding()
    await world.coordinator.report(
        [
            responder_report("a1", Stage.OPENED),
            responder_report("a2", Stage.OPENED, RELAY),
            responder_report("a1", Stage.ENDED, outcome=O.TIMEOUT, reason=Reason.NO_ANSWER),
        ]
    )
    await asyncio.sleep(1)
    assert world.hosts[RELAY].commands == []


@virtual_time
async def test_reports_of_unknown_connections_change_nothing() -> None:
    world = World(udp_punch="wins")
    await world.begin()
    stray = replace(responder_report("ff" * 16, Stage.READY), side=Side.INITIATOR)
    await world.coordinator.report([stray, replace(stray, connection_id="none")])
    assert (await world.row()).outcome is ConnectionOutcome.DIRECT
