"""The role that walks the connections of a host's nodes, and keeps the two ends of each of one mind."""

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from warpfleet.actors.connection_run import ConnectionRun
from warpfleet.actors.outbox import Outbox
from warpfleet.actors.values import CancelAttempt, Command, ConnectionRequest, Report, Stage, StartAttempt, Use
from warpfleet.configs.policy import walk_numbers
from warpfleet.core.combo import Combo, Policy, Reason, RouteType, Side
from warpfleet.core.peer import PeerView
from warpfleet.core.walk import Plan, WalkNumbers, make_plan
from warpfleet.plugins.loader import registrations
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, StartedRow

_RECORD_S = 5.0  # for asking a peer for its record, where the broker has none
_REFRESHER = "get_addr"
_SETTLED_MAX = 10_000  # connections whose stragglers are still recognised: minutes of a fast sweep

_log = logging.getLogger(__name__)


class TelemetryPort(Protocol):
    """Where rows go. A method that has returned has written them."""

    async def started(self, rows: Sequence[StartedRow]) -> None: ...

    async def connections(self, rows: Sequence[ConnectionRow]) -> None: ...

    async def attempts(self, rows: Sequence[AttemptRow]) -> None: ...


@dataclass(frozen=True, slots=True)
class RecordView:
    """What a node's address record says, and until when it holds (seconds since 1970)."""

    view: PeerView
    expires_at: float


CommandPort = Callable[[list[Command]], Awaitable[None]]


class Coordinator:
    """Walks connections and reports their rows. One for each host; a plain class."""

    def __init__(self, telemetry: TelemetryPort) -> None:
        self._telemetry = telemetry
        self._techniques = {r.name: r.technique for r in registrations()}
        self._phases = {r.name: r.phase for r in registrations()}
        self._hosts: dict[str, Outbox[Command]] = {}
        self._records: dict[str, RecordView] = {}
        self._record_changed = asyncio.Event()
        self._opted_out: set[tuple[str, str]] = set()
        self._runs: dict[str, ConnectionRun] = {}
        # Connections that peers opened with nodes of this host: the plugin of each attempt, by (node, attempt id).
        self._responding: defaultdict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        self._settled: OrderedDict[str, None] = OrderedDict()  # those of them that have a winner
        self._finished: defaultdict[str, asyncio.Queue[ConnectionRow]] = defaultdict(asyncio.Queue)
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers: dict[Policy, WalkNumbers] = {}
        self._attempt_rows: Outbox[AttemptRow] = Outbox(telemetry.attempts)
        self._ended = asyncio.Event()

    async def bind(self, hosts: Mapping[str, CommandPort]) -> None:
        """Learn where plugins run; a host that is named again replaces the one before."""
        for plugin, port in hosts.items():
            self._hosts[plugin] = Outbox(port)

    async def plugin_died(self, plugin: str) -> None:
        """Fail what ran in this plugin's host, on either side; it takes no more attempts until it is bound again."""
        self._hosts.pop(plugin, None)
        for run in self._runs.values():
            run.plugin_died(plugin)
        for attempts in self._responding.values():
            for key in [key for key, owner in attempts.items() if owner == plugin]:
                del attempts[key]

    async def opted_out(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Learn which plugins do not serve which nodes, as (plugin, node)."""
        self._opted_out.update(pairs)

    async def learn(self, records: Mapping[str, RecordView]) -> None:
        """Take the newest address records."""
        self._records.update(records)
        self._record_changed.set()
        self._record_changed = asyncio.Event()

    async def connect(self, requests: Sequence[ConnectionRequest]) -> None:
        """Begin these connections; `finished` has their rows."""
        for request in requests:
            task = asyncio.create_task(self._connect(request))
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
        return rows

    async def stop(self, sweep_id: str) -> None:
        """Cancel a sweep's connections; each still gets its row."""
        for run in self._runs.values():
            if run.request.sweep_id == sweep_id:
                run.stop(Reason.STOPPED)

    async def report(self, reports: Sequence[Report]) -> None:
        """Hear from the plugin hosts."""
        for report in reports:
            if report.side is Side.RESPONDER:
                self._responder_report(report)
                continue
            run = self._runs.get(report.connection_id)
            if run and run.runs(report.attempt_id):
                run.report(report)

    async def serve(self) -> None:
        """Return when the coordinator is closed; whoever awaits this learns at once when the process dies."""
        await self._ended.wait()

    async def close(self) -> None:
        """Cancel everything; each connection still gets its row."""
        for run in self._runs.values():
            run.stop(Reason.STOPPED)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._attempt_rows.drain()
        self._ended.set()

    async def _connect(self, request: ConnectionRequest) -> None:
        run = ConnectionRun(request, self._techniques, command=self._send_command, on_attempt=self._attempt_rows.put)
        self._runs[request.connection_id] = run
        try:
            await self._telemetry.started([run.prepare()])
            row = await self._walk(run)
        except Exception as error:  # noqa: BLE001 - whatever it is, a connection that was started gets its row
            _log.exception("connection %s failed inside", request.connection_id)
            row = run.row(None, None, Reason.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            del self._runs[request.connection_id]
        await self._attempt_rows.drain()
        await self._telemetry.connections([row])
        self._finished[request.sweep_id].put_nowait(row)

    async def _walk(self, run: ConnectionRun) -> ConnectionRow:
        run.begin()
        request = run.request
        mine = self._view(request.initiator)
        theirs = self._view(request.responder) or await self._refreshed(run)
        if mine is None or theirs is None:
            missing = request.initiator if mine is None else request.responder
            return await run.fail(mine, theirs, Reason.NO_RECORD, f"{missing} has published no valid address record")
        plan = self._plan(request, mine, theirs)
        return await run.walk(plan, mine, theirs)

    def _plan(self, request: ConnectionRequest, mine: PeerView, theirs: PeerView) -> Plan:
        if request.policy not in self._numbers:
            self._numbers[request.policy] = walk_numbers(request.policy)
        unavailable = {name: Reason.ACTOR_DIED for name in self._techniques if name not in self._hosts}
        unavailable |= {plugin: Reason.OPTED_OUT for plugin, node in self._opted_out if node == request.initiator}
        numbers = self._numbers[request.policy]
        return make_plan(list(self._techniques.values()), numbers, mine, theirs, request.pin, unavailable=unavailable)

    def _view(self, node: str) -> PeerView | None:
        record = self._records.get(node)
        return record.view if record and record.expires_at > time.time() else None

    async def _refreshed(self, run: ConnectionRun) -> PeerView | None:
        """Ask the peer itself for its record, since the broker has none that holds."""
        request = run.request
        order = StartAttempt(
            node=request.initiator,
            attempt_id=uuid4().hex,
            connection_id=request.connection_id,
            started_at_us=int(run.started_at.timestamp() * 1_000_000),
            combo=Combo(_REFRESHER, request.pin.af or 4, RouteType.EXT),
            timeout_s=_RECORD_S,
            peer=request.responder,
            theirs=PeerView(name=request.responder, machine=""),
            use=Use.MEASURE,
        )
        run.refresh(order)
        end_s = asyncio.get_running_loop().time() + _RECORD_S
        while (left_s := end_s - asyncio.get_running_loop().time()) > 0:
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

    def _responder_report(self, report: Report) -> None:
        attempts = self._responding[report.connection_id]
        key = report.node, report.attempt_id
        if report.stage is Stage.OPENED:
            attempts[key] = report.combo.plugin
            if report.connection_id in self._settled:
                self._cancel_responder(key, report.combo.plugin)
            return
        if report.stage is Stage.WON:
            self._settle(report.connection_id)
            for other, plugin in attempts.items():
                if other != key:
                    self._cancel_responder(other, plugin)
        attempts.pop(key, None)
        if not attempts:
            del self._responding[report.connection_id]
        self._attempt_rows.put(self._responder_row(report))

    def _settle(self, connection_id: str) -> None:
        self._settled[connection_id] = None
        if len(self._settled) > _SETTLED_MAX:
            self._settled.popitem(last=False)

    def _cancel_responder(self, key: tuple[str, str], plugin: str) -> None:
        self._send_command(plugin, CancelAttempt(*key, Reason.OTHER_PIPE_WON))

    def _responder_row(self, report: Report) -> AttemptRow:
        began_us = report.started_at_us
        offset_s = time.time() - asyncio.get_running_loop().time() - began_us / 1_000_000
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
            side=Side.RESPONDER,
            started_ms=(report.begun_s + offset_s) * 1000,
            ended_ms=(report.at_s + offset_s) * 1000,
            outcome=report.outcome,
            reason=report.reason,
            sockets=report.sockets,
            packets_sent=report.packets_sent,
        )
