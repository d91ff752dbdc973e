"""The role that walks the connections of a host's nodes, and keeps the two ends of each of one mind."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from warpfleet.actors.connection_run import ConnectionRun
from warpfleet.actors.outbox import Outbox
from warpfleet.actors.surroundings import MACHINE, Surroundings
from warpfleet.actors.values import CancelAttempt, Command, ConnectionRequest, Report, Stage, StartAttempt, Use
from warpfleet.configs.policy import walk_numbers
from warpfleet.core.combo import AttemptOutcome, Combo, Policy, Reason, RouteType, Side
from warpfleet.core.errors import MissingError
from warpfleet.core.experience import Evidence, Experience, Subject, Track
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Plan, long_shots, make_plan, subjects
from warpfleet.plugins.loader import registrations
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, Row, StartedRow

_RECORD_S = 5.0  # for asking a peer for its record, where the broker has none
_REFRESHER = "get_addr"
_SIGNAL = "signal host"
_REPLACED_S = 20.0  # a host that died is replaced within a second or two; a loaded machine may take ten times as long

_ASKED_S = 0.25  # an answer of the observatory takes milliseconds; a plan without it is a good one, too
# So many connections at once try what is unlikely to work, and would work for all of them: more learn nothing more.
_TRYING_MAX = 4
# Of one pair so many seek their pipe at once, and others after them: what a peer may be sent is bounded, and enough for
# these.
_WALKING_MAX = 32
_LEARN_S = 2.0  # for the last evidence, when all is over
# What nobody waits for goes along with what somebody does: an attempt's row with that of a connection, and evidence
# with others'.
_ROW_WITHIN_S = 0.05
_EVIDENCE_WITHIN_S = 0.25

_log = logging.getLogger(__name__)


class TelemetryPort(Protocol):
    """Where rows go."""

    async def write(self, rows: Sequence[Row]) -> Mapping[str, str]:
        """Return once they are written; the sweeps of which some are not, and why."""


class ObservatoryPort(Protocol):
    """Where nodes share what they learn. Either method may raise, and is then done without."""

    async def tracks(self, subjects: Sequence[Subject]) -> Mapping[Subject, Track]:
        """The fresh tracks of those subjects that have one."""

    async def learn(self, evidence: Sequence[Evidence]) -> None: ...


@dataclass(frozen=True, slots=True)
class RecordView:
    """What a node's address record says, and until when it holds (seconds since 1970)."""

    view: PeerView
    expires_at: float


CommandPort = Callable[[list[Command]], Awaitable[None]]


async def _in_time(observatory: ObservatoryPort, subjects: Sequence[Subject]) -> Mapping[Subject, Track]:
    async with asyncio.timeout(_ASKED_S):  # an observatory that hangs keeps those who ask later waiting no longer
        return await observatory.tracks(subjects)


class Coordinator:
    """Walks connections and reports their rows. One for each host; a plain class."""

    def __init__(
        self,
        telemetry: TelemetryPort,
        observatory: ObservatoryPort | None = None,
        *,
        surroundings: Surroundings = MACHINE,
    ) -> None:
        self._surroundings = surroundings
        self._evidence: Outbox[Evidence, None] | None = Outbox(observatory.learn) if observatory else None
        self._questions: Outbox[Subject, Mapping[Subject, Track]] | None = (
            Outbox(partial(_in_time, observatory)) if observatory else None
        )
        self._techniques = {r.name: r.technique for r in registrations()}
        self._phases = {r.name: r.phase for r in registrations()}
        self._hosts: dict[str, Outbox[Command, None]] = {}
        self._records: dict[str, RecordView] = {}
        self._record_changed = asyncio.Event()
        self._opted_out: set[tuple[str, str]] = set()
        self._runs: dict[str, ConnectionRun] = {}
        # Connections that peers opened with nodes of this host, by (connection id, node, peer): a peer that learnt the
        # id of another's connection meets only its own. How each attempt began, by (node, attempt id).
        self._responding: defaultdict[tuple[str, str, str], dict[tuple[str, str], Report]] = defaultdict(dict)
        self._replacing: set[str] = set()  # plugins whose host has died, and the signal host where it has
        self._hosts_changed = asyncio.Event()
        self._finished: defaultdict[str, asyncio.Queue[ConnectionRow]] = defaultdict(asyncio.Queue)
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = {policy: walk_numbers(policy) for policy in Policy}  # read now: no connection waits for a disk
        self._rows: Outbox[Row, Mapping[str, str]] = Outbox(telemetry.write)
        self._trying: Counter[Subject] = Counter()  # by the long shots of connections under way
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = WeakValueDictionary()  # by pair
        self._ended = asyncio.Event()

    async def bind(self, hosts: Mapping[str, CommandPort]) -> None:
        """Learn where plugins run; a host that is named again replaces the one before."""
        for plugin, port in hosts.items():
            self._hosts[plugin] = Outbox(port)
            self._replacing.discard(plugin)
        self._hosts_changed.set()

    async def plugin_died(self, plugin: str) -> None:
        """Fail what ran in this plugin's host, on either side; it takes no more attempts until it is bound again."""
        self._hosts.pop(plugin, None)
        self._replacing.add(plugin)
        for run in self._runs.values():
            run.plugin_died(plugin)
        now_s = asyncio.get_running_loop().time()
        for opened in [report for attempts in self._responding.values() for report in attempts.values()]:
            if opened.combo.plugin == plugin:
                died = replace(opened, stage=Stage.ENDED, outcome=AttemptOutcome.FAILED, reason=Reason.ACTOR_DIED)
                self._responder_report(replace(died, at_s=now_s))

    async def signal_died(self) -> None:
        """End every connection: what peers were told, or said, is lost. Those that begin now wait for `signal_back`."""
        self._replacing.add(_SIGNAL)
        self._stop(self._runs.values(), Reason.ACTOR_DIED)

    async def signal_back(self) -> None:
        """Peers can be spoken to again."""
        self._replacing.discard(_SIGNAL)
        self._hosts_changed.set()

    async def opted_out(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Learn which plugins do not serve which nodes, as (plugin, node)."""
        self._opted_out.update(pairs)

    async def learn(self, records: Mapping[str, RecordView]) -> None:
        """Take the newest address records."""
        self._records.update(records)
        self._wake_record_waiters()

    async def connect(self, requests: Sequence[ConnectionRequest]) -> None:
        """Begin these connections; `finished` has their rows."""
        for request in requests:
            run = ConnectionRun(
                request,
                self._techniques,
                command=self._send_command,
                on_attempt=self._put_row,
                surroundings=self._surroundings,
            )
            self._runs[request.connection_id] = run
            task = asyncio.create_task(self._connect(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finished(self, sweep_id: str, wait_s: float) -> list[ConnectionRow]:
        """The rows of a sweep's connections that have ended since the last call; waits so long for the first one."""
        queue = self._finished[sweep_id]
        rows: list[ConnectionRow] = []
        try:
            async with asyncio.timeout(wait_s):
                rows.append(await queue.get())
        except TimeoutError:
            return rows
        while not queue.empty():
            rows.append(queue.get_nowait())
        self._finished.pop(sweep_id, None)  # most have no further ones: each of a program's connections is a sweep
        return rows

    async def stop(self, sweep_id: str) -> None:
        """Cancel a sweep's connections; each still gets its row."""
        self._stop([run for run in self._runs.values() if run.request.sweep_id == sweep_id], Reason.STOPPED)

    async def cancel(self, connection_id: str, reason: Reason) -> None:
        """Cancel one connection; it still gets its row."""
        if connection_id in self._runs:
            self._stop([self._runs[connection_id]], reason)

    async def report(self, reports: Sequence[Report]) -> None:
        """Hear from the plugin hosts."""
        for report in reports:
            run = self._runs.get(report.connection_id)
            if report.side is Side.RESPONDER:
                self._responder_report(report)
            elif run and run.runs(report.attempt_id):
                run.report(report)
            elif report.reason is Reason.ACTOR_DIED:  # started by the coordinator before us
                self._put_row(self._row_of(report))

    async def serve(self) -> None:
        """Return when the coordinator is closed; whoever awaits this learns at once when the process dies."""
        await self._ended.wait()

    async def close(self) -> None:
        """Cancel everything; each connection still gets its row."""
        self._stop(self._runs.values(), Reason.STOPPED)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rows.drain()
        if self._evidence:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEARN_S):
                    await self._evidence.drain()
        self._ended.set()

    def _stop(self, runs: Iterable[ConnectionRun], reason: Reason) -> None:
        for run in runs:
            run.stop(reason)
        self._wake_record_waiters()

    def _wake_record_waiters(self) -> None:
        self._record_changed.set()
        self._record_changed = asyncio.Event()

    async def _connect(self, run: ConnectionRun) -> None:
        request = run.request
        try:
            with await self._turn(run) as turn:
                await self._written(run.record.prepare())
                await self._every_host()
                row = await self._walk(run, on_pipe=turn.close)
        except Exception as error:  # noqa: BLE001 - whatever it is, a connection that was started gets its row
            _log.exception("connection %s failed inside", request.connection_id)
            row = await run.fail(None, None, Reason.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            del self._runs[request.connection_id]
        try:
            await self._written(row)  # behind those of its attempts
        except Exception:  # noqa: BLE001 - the sweep is told all the same: it must not wait for a row without a place
            _log.exception("the row of connection %s was not written", request.connection_id)
        self._finished[request.sweep_id].put_nowait(row)

    def _put_row(self, row: AttemptRow) -> None:
        self._rows.put(row, within_s=_ROW_WITHIN_S)

    async def _written(self, row: StartedRow) -> None:
        """MissingError where it cannot be."""
        failed = await self._rows.ask(row)
        if why := failed.get(row.sweep_id):
            raise MissingError(why)

    async def _every_host(self) -> None:
        """Wait a while for the hosts that are being replaced: a technique less would change what is measured."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_REPLACED_S):
                while self._replacing:
                    self._hosts_changed.clear()
                    await self._hosts_changed.wait()

    async def _turn(self, run: ConnectionRun) -> ExitStack:
        """Return when few enough others of the pair walk that have no pipe yet, or when the connection is stopped; the
        turn is over once this is closed."""
        pair = run.request.initiator, run.request.responder
        turns = self._turns.setdefault(pair, asyncio.Semaphore(_WALKING_MAX))
        turn = ExitStack()
        if await run.unless_stopped(turns.acquire()):
            turn.callback(turns.release)
        return turn

    async def _walk(self, run: ConnectionRun, on_pipe: Callable[[], None]) -> ConnectionRow:
        run.record.begin()
        request = run.request
        mine = self._view(request.initiator)
        theirs = self._view(request.responder) or await self._refreshed(run)
        if mine is None or theirs is None:
            missing = request.initiator if mine is None else request.responder
            error = "" if run.stopped else f"{missing} has published no valid address record"
            return await run.fail(mine, theirs, run.stopped or Reason.NO_RECORD, error)
        plan = await self._plan(request, mine, theirs)
        tried = Counter(long_shots(self._techniques, plan, mine, theirs, request.realm))
        self._trying += tried
        try:
            row = await run.walk(plan, mine, theirs, on_pipe)
        finally:
            self._trying -= tried
        if self._evidence:
            for item in run.record.evidence(mine, theirs):
                self._evidence.put(item, within_s=_EVIDENCE_WITHIN_S)
        return row

    async def _plan(self, request: ConnectionRequest, mine: PeerView, theirs: PeerView) -> Plan:
        numbers, techniques = self._numbers[request.policy], list(self._techniques.values())
        asked = subjects(techniques, numbers, mine, theirs, request.pin, realm=request.realm)
        tracks = await self._tracks(asked)
        busy = {subject for subject in asked if self._trying[subject] >= _TRYING_MAX}
        experience = Experience(request.realm, tracks, busy)
        unavailable = {name: Reason.ACTOR_DIED for name in self._techniques if name not in self._hosts}
        unavailable |= {plugin: Reason.OPTED_OUT for plugin, node in self._opted_out if node == request.initiator}
        return make_plan(techniques, numbers, mine, theirs, request.pin, unavailable=unavailable, experience=experience)

    async def _tracks(self, asked: Sequence[Subject]) -> Mapping[Subject, Track]:
        """What the observatory says in time: a connection does not depend on it."""
        if self._questions is None or not asked:
            return {}
        try:
            async with asyncio.timeout(_ASKED_S):
                return await self._questions.ask(*asked)
        except Exception as error:  # noqa: BLE001 - it is another process: anything may be raised
            _log.info("planned without the observatory: %s", type(error).__name__)
            return {}

    def _view(self, node: str) -> PeerView | None:
        record = self._records.get(node)
        return record.view if record and record.expires_at > self._surroundings.now_s() else None

    async def _refreshed(self, run: ConnectionRun) -> PeerView | None:
        """Ask the peer itself for its record, since the broker has none that holds."""
        request = run.request
        order = StartAttempt(
            node=request.initiator,
            attempt_id=self._surroundings.new_id(),
            connection_id=request.connection_id,
            started_at_us=run.record.started_at_us,
            combo=Combo(_REFRESHER, request.pin.af or 4, RouteType.EXT),
            timeout_s=_RECORD_S,
            peer=request.responder,
            theirs=PeerView(name=request.responder, machine=""),
            use=Use.MEASURE,
        )
        run.refresh(order)
        end_s = asyncio.get_running_loop().time() + _RECORD_S
        while not run.stopped and (left_s := end_s - asyncio.get_running_loop().time()) > 0:
            changed = self._record_changed
            if view := self._view(request.responder):
                return view
            try:
                async with asyncio.timeout(left_s):
                    await changed.wait()
            except TimeoutError:
                break
        return None

    def _send_command(self, plugin: str, command: Command) -> None:
        if plugin in self._hosts:
            self._hosts[plugin].put(command)
        elif isinstance(command, StartAttempt):
            self._runs[command.connection_id].plugin_died(plugin)

    def _responder_report(self, report: Report) -> None:
        connection = report.connection_id, report.node, report.peer
        attempts = self._responding[connection]
        key = report.node, report.attempt_id
        if report.stage is Stage.OPENED:
            attempts[key] = report
            return
        if report.outcome is None:
            return
        if report.stage is Stage.WON and not (report.pipe and report.pipe.relayed):
            # Beside a relayed pipe a direct path may still be sought: the peer says what it gives up. The pipe that is
            # to move may still be at its tunnel.
            for other, opened in attempts.items():
                if other != key and opened.combo.plugin != report.moves:
                    self._send_command(opened.combo.plugin, CancelAttempt(*other, Reason.OTHER_PIPE_WON))
        attempts.pop(key, None)
        if not attempts:
            del self._responding[connection]
        self._put_row(self._row_of(report))

    def _row_of(self, report: Report) -> AttemptRow:
        began_us = report.started_at_us
        offset_s = self._surroundings.now_s() - asyncio.get_running_loop().time() - began_us / 1_000_000
        assert report.outcome is not None
        return AttemptRow(
            sweep_id="",
            connection_id=report.connection_id,
            attempt_id=report.attempt_id,
            plugin=report.combo.plugin,
            phase=self._phases[report.combo.plugin],
            transport=self._techniques[report.combo.plugin].transport,
            af=report.combo.af,
            route_type=report.combo.route,
            side=report.side,
            started_ms=(report.begun_s + offset_s) * 1000,
            ended_ms=(report.at_s + offset_s) * 1000,
            outcome=report.outcome,
            reason=report.reason,
            sockets=report.sockets,
            packets_sent=report.packets_sent,
        )
