"""`warpfleet sweep`: connect many pairs of a fleet, and record how."""

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from warpfleet.cli.options import Af, Json, Only, check_plugin, console, enter_namespaces, load_fleet, sayer
from warpfleet.cli.progress import show_progress
from warpfleet.configs.fleet import Fleet
from warpfleet.configs.topology import find_topology
from warpfleet.core.combo import Policy
from warpfleet.core.walk import Pin
from warpfleet.lab import rootless
from warpfleet.lab.laboratory import laboratory
from warpfleet.telemetry import analysis
from warpfleet.telemetry.report import report
from warpfleet.telemetry.sweep import Sweep, check_directory

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130
_DEFAULT_TOPOLOGY = "default"
_LABORATORY = "warpfleet-sweep"  # the same each time, so that a resumed sweep finds the same namespaces


def sweep(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the telemetry goes.")],
    fleet_path: Annotated[
        Path | None, typer.Argument(metavar="FLEET", help="The fleet file; without one, the shipped laboratory.")
    ] = None,
    pairs: Annotated[str, typer.Option(help="all, A:B,C:D or random:N ordered pairs.")] = "all",
    repeat: Annotated[int, typer.Option(min=1, help="How often each pair is connected.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="How many connections at a time.")] = 8,
    policy: Policy = Policy.STAGGERED,
    only: Only = None,
    af: Af = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the order and of random pairs.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in DIR.")] = False,
    as_json: Json = False,
) -> None:
    """Connect the pairs of a fleet and record how; ends with who reached whom, and how.

    Exit status 1 where a connection that should have worked did not.
    """
    check_plugin(only)
    check_directory(out, resume=resume)
    if resume and seed is None and (out / "sweep.json").exists():
        seed = Sweep.read(out).seed
    plan = {
        "pairs": pairs,
        "repeat": repeat,
        "policy": policy,
        "pin": Pin(only, int(af) if af else None),
        "seed": secrets.randbits(32) if seed is None else seed,
    }
    with _fleet(fleet_path) as fleet:
        status = asyncio.run(_sweep(fleet, plan, out.absolute(), resume=resume, concurrency=concurrency))
    if as_json:
        print(json.dumps(_summary(out), default=str))
    else:
        console().print(report(out))
    raise typer.Exit(status)


@contextmanager
def _fleet(path: Path | None) -> Iterator[Fleet]:
    if path is not None:
        fleet = load_fleet(path)
        enter_namespaces(fleet)
        yield fleet
        return
    rootless.ensure_privilege()
    topology = find_topology(_DEFAULT_TOPOLOGY)
    with laboratory(topology, name=_LABORATORY, progress=sayer("lab"), take_over=True) as lab:
        yield load_fleet(lab.fleet_path)


async def _sweep(fleet: Fleet, plan: dict[str, Any], out: Path, *, resume: bool, concurrency: int) -> int:
    # Ray takes a second to import, and reads its environment then.
    from warpfleet.cluster.recorded_sweep import SweepPlan, recorded_sweep  # noqa: PLC0415
    from warpfleet.cluster.session import fleet_session  # noqa: PLC0415
    from warpfleet.cluster.sweep import should_have_worked  # noqa: PLC0415

    sweep_plan = SweepPlan(**plan)
    sweep_plan.trials(fleet)
    if resume and (out / "sweep.json").exists():
        Sweep.read(out).continued_by(sweep_plan.sweep(fleet, ()), out)
    stopping = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    async with fleet_session(fleet, sayer("sweep")) as runtime:
        if not fleet.services.turn:
            print("warpfleet: no TURN server in the fleet file: pairs without a direct path will fail", file=sys.stderr)
        with show_progress() as on_progress:
            rows = await recorded_sweep(
                runtime,
                fleet,
                sweep_plan,
                out,
                resume=resume,
                concurrency=concurrency,
                stopping=stopping,
                on_progress=on_progress,
            )
    if stopping.is_set():
        return _EXIT_INTERRUPTED
    return _EXIT_FAILED if any(should_have_worked(row) for row in rows) else 0


def _summary(directory: Path) -> dict[str, Any]:
    return {
        "sweep_id": Sweep.read(directory).sweep_id,
        "directory": str(directory),
        "outcomes": analysis.outcomes(directory),
        "matrix": [asdict(cell) for cell in analysis.matrix(directory)],
        "summary": [asdict(share) for share in analysis.summary(directory)],
        "failures": [asdict(failure) for failure in analysis.failures(directory)],
    }
