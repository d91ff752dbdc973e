"""Sweeps: many connections over a fleet, a bounded number at a time, every one of them recorded."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from uuid import uuid4

from ray.exceptions import RayError

from warpfleet.actors.ray_actors import remote
from warpfleet.actors.values import ConnectionRequest
from warpfleet.cluster.fleet_runtime import ClusterLost, FleetRuntime
from warpfleet.cluster.progress import Progress
from warpfleet.core.combo import ConnectionOutcome, Policy, Reason
from warpfleet.core.pairs import Trial
from warpfleet.core.walk import Pin
from warpfleet.telemetry.records import ConnectionRow

_POLL_S = 0.5  # how long one question for finished connections waits: a display is fresh enough with that
_STOP_S = 10.0  # cancelled connections end in milliseconds; what takes longer is recorded as interrupted


def should_have_worked(row: ConnectionRow) -> bool:
    """Whether a connection failed that ought not to: one that had nothing to try (a pinned plugin that the NATs rule
    out), or that the user cancelled, is no such failure."""
    bad = row.outcome in (ConnectionOutcome.FAILED, ConnectionOutcome.ERROR)
    return bad and row.reason is not Reason.NOTHING_TO_TRY


async def run_sweep(
    runtime: FleetRuntime,
    sweep_id: str,
    trials: Sequence[Trial],
    *,
    policy: Policy,
    pin: Pin,
    concurrency: int,
    stopping: asyncio.Event,
    on_progress: Callable[[Progress], None],
) -> list[ConnectionRow]:
    """Connect every trial; the rows in the order of their ends. Once `stopping` is set, what is in flight is cancelled.

    ClusterLost where an actor that the sweep cannot do without has died; what was recorded stays.
    """
    waiting = deque(trials)
    progress = Progress(len(trials))
    rows: list[ConnectionRow] = []
    coordinator = runtime.coordinator
    stopped_at_s: float | None = None
    try:
        while waiting or progress.in_flight:
            if stopping.is_set() and stopped_at_s is None:
                waiting.clear()
                stopped_at_s = time.monotonic()
                await remote(coordinator, "stop")(sweep_id)
            if stopped_at_s and time.monotonic() - stopped_at_s > _STOP_S:
                break
            starting = [waiting.popleft() for _ in range(min(len(waiting), concurrency - progress.in_flight))]
            if starting:
                progress.in_flight += len(starting)
                requests = [_request(sweep_id, trial, policy, pin) for trial in starting]
                await remote(coordinator, "connect")(requests)
            on_progress(progress)
            for row in await _finished(runtime, sweep_id, stopping):
                rows.append(row)
                progress.in_flight -= 1
                progress.outcomes[row.outcome] = progress.count(row.outcome) + 1
        on_progress(progress)
    except RayError as error:
        raise ClusterLost(f"the coordinator actor died ({type(error).__name__}); go on with --resume") from error
    return rows


async def _finished(runtime: FleetRuntime, sweep_id: str, stopping: asyncio.Event) -> list[ConnectionRow]:
    """The next rows; nothing after a while, or as soon as the sweep is stopped or the cluster lost."""
    asking = asyncio.ensure_future(remote(runtime.coordinator, "finished")(sweep_id, _POLL_S))
    stop = asyncio.ensure_future(stopping.wait())
    try:
        waiting = {asking, runtime.lost} if stopping.is_set() else {asking, stop, runtime.lost}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if runtime.lost.done():
            raise ClusterLost(f"{runtime.lost.result()}; what is recorded stays: go on with --resume")
        rows: list[ConnectionRow] = await asking
        return rows
    finally:
        asking.cancel()
        stop.cancel()
        await asyncio.gather(asking, stop, return_exceptions=True)


def _request(sweep_id: str, trial: Trial, policy: Policy, pin: Pin) -> ConnectionRequest:
    return ConnectionRequest(
        sweep_id=sweep_id,
        connection_id=uuid4().hex,
        initiator=trial.initiator,
        responder=trial.responder,
        repeat=trial.repeat,
        policy=policy,
        pin=pin,
    )
