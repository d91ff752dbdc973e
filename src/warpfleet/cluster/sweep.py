"""Sweeps: many connections over a fleet, a bounded number at a time, every one of them recorded."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from ray.exceptions import RayError

from warpfleet.actors.values import ConnectionRequest
from warpfleet.cluster.progress import Progress
from warpfleet.cluster.supervisor import COORDINATOR, ClusterLost, Supervisor
from warpfleet.core.combo import ConnectionOutcome, Policy, Reason
from warpfleet.core.pairs import Trial
from warpfleet.core.plan import Pin
from warpfleet.telemetry.records import ConnectionRow

_POLL_S = 0.5  # how long one question for finished connections waits: a display is fresh enough with that
_RETRIES_MAX = 3  # of one trial, after deaths of actors: one that kills them each time must not go on for ever
_STOP_S = 10.0  # cancelled connections end in milliseconds; what takes longer is recorded as interrupted


def should_have_worked(row: ConnectionRow) -> bool:
    """Whether a connection failed that ought not to: one that had nothing likely to try (a pinned plugin that the NATs
    rule out), or that the user cancelled, is no such failure."""
    bad = row.outcome in (ConnectionOutcome.FAILED, ConnectionOutcome.ERROR)
    return bad and row.reason not in (Reason.NOTHING_TO_TRY, Reason.ONLY_LONG_SHOTS)


async def run_sweep(
    supervisor: Supervisor,
    sweep_id: str,
    realm: str,
    trials: Sequence[Trial],
    *,
    policy: Policy,
    pin: Pin,
    concurrency: int,
    stopping: asyncio.Event,
    on_progress: Callable[[Progress], None],
) -> list[ConnectionRow]:
    """Connect every trial; the rows in the order of their ends. Once `stopping` is set, what is in flight is cancelled.

    A connection that ended because an actor died is tried again. ClusterLost where an actor was not replaced; what was
    recorded stays.
    """
    request = partial(ConnectionRequest, sweep_id=sweep_id, realm=realm, policy=policy, pin=pin)
    return await _SweepRun(supervisor, sweep_id, request, trials, on_progress).run(concurrency, stopping)


class _SweepRun:
    def __init__(
        self,
        supervisor: Supervisor,
        sweep_id: str,
        request: Callable[..., ConnectionRequest],
        trials: Sequence[Trial],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._supervisor = supervisor
        self._sweep_id = sweep_id
        self._request = request
        self._on_progress = on_progress
        self._waiting = deque(trials)
        self._in_flight: dict[str, Trial] = {}
        self._retries: Counter[Trial] = Counter()
        self._coordinators = supervisor.coordinators
        self._progress = Progress(len(trials))
        self._rows: list[ConnectionRow] = []

    async def run(self, concurrency: int, stopping: asyncio.Event) -> list[ConnectionRow]:
        stopped_at_s: float | None = None
        while self._waiting or self._in_flight:
            if stopping.is_set():
                self._waiting.clear()
                if stopped_at_s is None:
                    stopped_at_s = time.monotonic()
                    await self._ask("stop", self._sweep_id)
                if time.monotonic() - stopped_at_s > _STOP_S:
                    break
            await self._start(concurrency)
            self._tell()
            for row in await self._finished(stopping):
                self._take(row)
            self._take_back_orphans()
        self._tell()
        return self._rows

    async def _start(self, concurrency: int) -> None:
        room = min(len(self._waiting), concurrency - len(self._in_flight))
        starting = {uuid4().hex: self._waiting.popleft() for _ in range(room)}
        self._in_flight |= starting
        if starting:
            requests = [
                self._request(
                    connection_id=connection_id, initiator=t.initiator, responder=t.responder, repeat=t.repeat
                )
                for connection_id, t in starting.items()
            ]
            await self._ask("connect", requests)

    async def _finished(self, stopping: asyncio.Event) -> list[ConnectionRow]:
        """The next rows; nothing after a while, or as soon as the sweep is stopped."""
        asking = asyncio.ensure_future(self._ask("finished", self._sweep_id, _POLL_S))
        stop = asyncio.ensure_future(stopping.wait())
        lost = self._supervisor.lost
        try:
            waiting: set[asyncio.Future[Any]] = {asking, lost} if stopping.is_set() else {asking, stop, lost}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise ClusterLost(f"{lost.result()}; what is recorded stays: go on with --resume")
            return await asking or []
        finally:
            asking.cancel()
            stop.cancel()
            await asyncio.gather(asking, stop, return_exceptions=True)

    async def _ask(self, method: str, *arguments: object) -> list[ConnectionRow] | None:
        """Ask the coordinator; one that dies before it answers leaves orphans, which are seen by its successor."""
        try:
            rows = await self._supervisor.ask(COORDINATOR, method, *arguments)
        except RayError:
            return None
        assert rows is None or isinstance(rows, list)
        return rows

    def _take_back_orphans(self) -> None:
        """What a coordinator had under way has ended with it."""
        if self._coordinators != self._supervisor.coordinators:
            self._coordinators = self._supervisor.coordinators
            self._waiting.extendleft(self._in_flight.values())
            self._in_flight.clear()

    def _take(self, row: ConnectionRow) -> None:
        trial = self._in_flight.pop(row.connection_id, None)
        if trial is None:
            return
        died = row.outcome is ConnectionOutcome.ERROR and row.reason is Reason.ACTOR_DIED
        if died and self._retries[trial] < _RETRIES_MAX:
            self._retries[trial] += 1
            self._waiting.append(trial)
            return
        self._rows.append(row)
        self._progress.outcomes[row.outcome] = self._progress.count(row.outcome) + 1

    def _tell(self) -> None:
        self._progress.in_flight = len(self._in_flight)
        self._on_progress(self._progress)
