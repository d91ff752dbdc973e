"""One sweep from its plan to its telemetry."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from warpfleet.actors.own_node import NodeReport
from warpfleet.cluster.progress import Progress
from warpfleet.cluster.supervisor import ClusterLost, Supervisor
from warpfleet.cluster.sweep import run_sweep
from warpfleet.cluster.sweep_plan import SweepPlan
from warpfleet.configs.fleet import Fleet
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.pairs import Trial
from warpfleet.telemetry.records import ConnectionRow, NatObservationRow


async def recorded_sweep(
    supervisor: Supervisor,
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
    await supervisor.refresh_reports()
    sweep = await supervisor.open_sweep(directory, plan.sweep(fleet, supervisor.reports), resume=resume)
    try:
        done = _done(directory) if resume else set()
        counted = supervisor.probes_counted
        await supervisor.record_observations(_observations(sweep.sweep_id, supervisor.reports, counted=counted))
        return await run_sweep(
            supervisor,
            sweep.sweep_id,
            fleet.realm,
            [trial for trial in plan.trials(fleet) if trial not in done],
            policy=plan.policy,
            pin=plan.pin,
            concurrency=concurrency,
            stopping=stopping,
            on_progress=on_progress,
        )
    finally:
        try:
            await supervisor.close_sweep(sweep.sweep_id)
        except ClusterLost:
            from warpfleet.telemetry.writer import recover  # noqa: PLC0415 - as above

            recover(directory)


def _done(directory: Path) -> set[Trial]:
    from warpfleet.telemetry.analysis import completed_pairs  # noqa: PLC0415 - a cluster starts sooner without Arrow

    return {Trial(*key) for key in completed_pairs(directory)}


def _observations(sweep_id: str, reports: Sequence[NodeReport], *, counted: bool) -> list[NatObservationRow]:
    """What is known of the nodes' NATs. The packets that it took belong to the first sweep after the nodes were opened:
    they are `counted` already in one after that."""
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
            packets_sent=0 if counted else report.nats[af].packets_sent,
            port_first=nat.port_range.first if nat.port_range else None,
            port_last=nat.port_range.last if nat.port_range else None,
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
