"""`warpfleet sweep`: connect many pairs of a fleet, and record how."""

import asyncio
import functools
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from warpfleet.cli.options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Af,
    Json,
    Only,
    check_plugin,
    console,
    enter_namespaces,
    load_fleet,
    sayer,
)
from warpfleet.cli.progress import show_progress
from warpfleet.cluster.progress import Progress
from warpfleet.configs.fleet import Fleet
from warpfleet.configs.topology import find_topology
from warpfleet.core.combo import Policy
from warpfleet.core.plan import Pin
from warpfleet.lab import rootless
from warpfleet.lab.laboratory import laboratory
from warpfleet.telemetry.sweep import FILE_NAME, Sweep, check_directory

Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the telemetry goes.")]
Pairs = Annotated[str, typer.Option(help="all, A:B,C:D or random:N ordered pairs.")]
Repeat = Annotated[int, typer.Option(min=1, help="How often each pair is connected.")]
Concurrency = Annotated[int, typer.Option(min=1, help="How many connections at a time.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the order and of random pairs.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the sweep in DIR.")]

_DEFAULT_TOPOLOGY = "default"
_LABORATORY = "warpfleet-sweep"  # the same each time, so that a resumed sweep finds the same namespaces


class SweepOptions(NamedTuple):
    """What a sweep is to do; the seed may still be open."""

    pairs: str
    repeat: int
    policy: Policy
    pin: Pin
    seed: int | None


def sweep(
    out: Out,
    fleet_path: Annotated[
        Path | None, typer.Argument(metavar="FLEET", help="The fleet file; without one, the shipped laboratory.")
    ] = None,
    pairs: Pairs = "all",
    repeat: Repeat = 1,
    concurrency: Concurrency = 8,
    policy: Policy = Policy.STAGGERED,
    only: Only = None,
    af: Af = None,
    seed: Seed = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Connect the pairs of a fleet and record how; ends with who reached whom, and how.

    Exit status 1 where a connection that should have worked did not.
    """
    plan = SweepOptions(pairs, repeat, policy, Pin(check_plugin(only), int(af) if af else None), seed)
    source = _from_file(fleet_path) if fleet_path else _from_laboratory(_DEFAULT_TOPOLOGY)
    _run(source, plan, out, resume=resume, concurrency=concurrency, as_json=as_json)


def lab_sweep(
    topology: Annotated[str, typer.Argument(help="A topology file, or the name of one that ships.")],
    out: Out,
    pairs: Pairs = "all",
    repeat: Repeat = 1,
    concurrency: Concurrency = 8,
    policy: Policy = Policy.STAGGERED,
    only: Only = None,
    af: Af = None,
    seed: Seed = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Build a laboratory, sweep it, and take it down again."""
    plan = SweepOptions(pairs, repeat, policy, Pin(check_plugin(only), int(af) if af else None), seed)
    _run(_from_laboratory(topology), plan, out, resume=resume, concurrency=concurrency, as_json=as_json)


def _run(
    source: AbstractContextManager[Fleet],
    options: SweepOptions,
    out: Path,
    *,
    resume: bool,
    concurrency: int,
    as_json: bool,
) -> None:
    check_directory(out, resume=resume)
    if options.seed is None:
        resuming = resume and (out / FILE_NAME).exists()
        options = options._replace(seed=Sweep.read(out).seed if resuming else secrets.randbits(32))
    try:
        with source as fleet:
            status = asyncio.run(_sweep(fleet, options, out.absolute(), resume=resume, concurrency=concurrency))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(EXIT_INTERRUPTED) from None
    from warpfleet.telemetry.report import ending  # noqa: PLC0415 - DuckDB and Arrow take their time

    if as_json:
        print(json.dumps(_summary(out), default=str))
    else:
        console().print(ending(out))
    raise typer.Exit(status)


@contextmanager
def _from_file(path: Path) -> Iterator[Fleet]:
    fleet = load_fleet(path)
    enter_namespaces(fleet)
    yield fleet


@contextmanager
def _from_laboratory(topology: str) -> Iterator[Fleet]:
    chosen = find_topology(topology)
    rootless.ensure_privilege()
    with laboratory(chosen, name=_LABORATORY, progress=sayer("lab"), take_over=True) as lab:
        yield load_fleet(lab.fleet_path)


async def _sweep(fleet: Fleet, options: SweepOptions, out: Path, *, resume: bool, concurrency: int) -> int:
    from warpfleet.cluster.control import SweepRequest  # noqa: PLC0415 - the options are checked sooner
    from warpfleet.cluster.session import ask_cluster  # noqa: PLC0415
    from warpfleet.cluster.sweep_plan import SweepPlan  # noqa: PLC0415

    plan = SweepPlan(**options._asdict())
    plan.trials(fleet)
    if resume and (out / FILE_NAME).exists():
        Sweep.read(out).continued_by(plan.sweep(fleet, ()), out)
    stopping = asyncio.Event()
    stop_softly = _interrupts(stopping)
    request = SweepRequest(fleet=fleet, plan=plan, directory=out, resume=resume, concurrency=concurrency)
    say = sayer("sweep")

    @functools.cache
    def begin() -> None:
        stop_softly()
        if not fleet.services.turn:
            say("no TURN server in the fleet file: pairs without a direct path will fail")

    with show_progress() as on_progress:

        def on_event(event: object) -> None:
            if isinstance(event, Progress):
                begin()
                on_progress(event)
            else:
                say(str(event))

        failed = await ask_cluster(fleet, request, say=say, stopping=stopping, on_event=on_event)
    if stopping.is_set():
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failed else 0


def _interrupts(stopping: asyncio.Event) -> Callable[[], None]:
    """Ctrl-C cancels what this task waits for; once the function that is returned has been called, it sets `stopping`
    instead, so that what is under way is recorded."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def handle(action: Callable[[], object]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, action)

    handle(task.cancel)
    return lambda: handle(stopping.set)


def _summary(directory: Path) -> dict[str, Any]:
    from warpfleet.telemetry import analysis  # noqa: PLC0415

    with analysis.tables(directory) as database:
        return {
            "sweep_id": Sweep.read(directory).sweep_id,
            "directory": str(directory),
            "outcomes": analysis.outcomes(database),
            "matrix": [asdict(cell) for cell in analysis.matrix(database)],
            "summary": [asdict(share) for share in analysis.summary(database)],
            "failures": [asdict(failure) for failure in analysis.failures(database)],
        }
