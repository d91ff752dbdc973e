"""One sweep from its plan to its telemetry."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import ray
from ray.exceptions import RayError

from warpfleet.actors.ray_actors import remote
from warpfleet.actors.signal_host import NodeReport
from warpfleet.cluster.fleet_runtime import FleetRuntime
from warpfleet.cluster.progress import Progress
from warpfleet.cluster.sweep import run_sweep
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.pairs import Trial, choose_pairs, order_trials
from warpfleet.core.walk import Pin
from warpfleet.signal.clock import ClockEstimate
from warpfleet.telemetry.analysis import completed_pairs
from warpfleet.telemetry.records import ConnectionRow, NatObservationRow
from warpfleet.telemetry.sweep import ClockReading, Sweep, versions
from warpfleet.telemetry.writer import recover


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What a sweep is to do."""

    pairs: str
    repeat: int
    policy: Policy
    pin: Pin
    seed: int

    def sweep(self, fleet: Fleet, reports: Sequence[NodeReport]) -> Sweep:
        """What `sweep.json` says of it."""
        return Sweep(
            sweep_id=uuid4().hex,
            fleet=fleet.redacted(),
            policy=self.policy,
            seed=self.seed,
            arguments={"pairs": self.pairs, "repeat": self.repeat, "only": self.pin.plugin, "af": self.pin.af},
            versions=versions(ray=ray.__version__),
            started_at=datetime.now(UTC),
            clocks={report.name: _reading(report.clock) for report in reports if report.clock},
        )

    def trials(self, fleet: Fleet) -> list[Trial]:
        """Every connection of the sweep, in its order. InputError for pairs that the fleet does not have."""
        rng = random.Random(self.seed)
        pairs = choose_pairs([node.name for node in fleet.nodes], self.pairs, rng)
        return order_trials(pairs, self.repeat, rng)


async def recorded_sweep(
    runtime: FleetRuntime,
    fleet: Fleet,
    plan: SweepPlan,
    directory: Path,
    *,
    resume: bool,
    concurrency: int,
    stopping: asyncio.Event,
    on_progress: Callable[[Progress], None],
) -> list[ConnectionRow]:
    """Sweep and record; the rows of this run. InputError where the directory cannot take the sweep."""
    open_sweep = remote(runtime.telemetry, "open_sweep")
    sweep: Sweep = await open_sweep(directory, plan.sweep(fleet, runtime.reports), resume=resume)
    try:
        done = {Trial(*key) for key in completed_pairs(directory)} if resume else set()
        observations = _observations(sweep.sweep_id, runtime.reports)
        await remote(runtime.telemetry, "observations")(observations)
        return await run_sweep(
            runtime,
            sweep.sweep_id,
            [trial for trial in plan.trials(fleet) if trial not in done],
            policy=plan.policy,
            pin=plan.pin,
            concurrency=concurrency,
            stopping=stopping,
            on_progress=on_progress,
        )
    finally:
        try:
            await remote(runtime.telemetry, "close_sweep")(sweep.sweep_id)
        except RayError:
            recover(directory)


def _reading(clock: ClockEstimate) -> ClockReading:
    return ClockReading(offset_ms=clock.offset_s * 1000, error_ms=clock.error_s * 1000, servers=clock.servers)


def _observations(sweep_id: str, reports: Sequence[NodeReport]) -> list[NatObservationRow]:
    now = datetime.now(UTC)
    return [
        NatObservationRow(
            sweep_id=sweep_id,
            node=report.name,
            observed_at=now,
            external_ip=report.view.external.get(af),
            mapping=nat.mapping,
            filtering=nat.filtering,
            port_assignment=nat.port_assignment,
            port_delta=nat.port_delta,
            hairpin=nat.hairpin,
            lifetime_s=nat.lifetime_s,
            source=report.nats[af].source,
            confidence=_confidence(nat),
            af=af,
            packets_sent=report.nats[af].packets_sent,
        )
        for report in reports
        for af, nat in report.view.nat.items()
    ]


def _confidence(nat: NatBehaviour) -> float:
    """The share of the tests that gave an answer."""
    answered = (
        nat.mapping is not Mapping.UNKNOWN,
        nat.filtering is not Filtering.UNKNOWN,
        nat.port_assignment is not PortAssignment.UNKNOWN,
        nat.hairpin is not None,
    )
    return sum(answered) / len(answered)
