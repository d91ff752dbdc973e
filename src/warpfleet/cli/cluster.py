"""`warpfleet cluster`: a cluster on this machine that stays."""

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from warpfleet.cli.options import Json, console, enter_namespaces, load_fleet, sayer
from warpfleet.core.combo import ConnectionOutcome
from warpfleet.core.errors import InputError, MissingError

if TYPE_CHECKING:
    from warpfleet.cluster.status import ClusterStatus
    from warpfleet.configs.fleet import Fleet

app = typer.Typer(help="A cluster that stays: Ray, its actors and a fleet's nodes.", no_args_is_help=True)

_NONE = "no cluster is running; start one: warpfleet cluster launch CONFIG"

_say = sayer("cluster")


@app.command()
def launch(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="A fleet file whose nodes are opened; without one, the first command's."),
    ] = None,
) -> None:
    """Start a cluster on this machine, which `sweep` and `connect` use from then on, and return once it is up."""
    fleet = load_fleet(config) if config else None
    if fleet:
        enter_namespaces(fleet)
    asyncio.run(_launch(fleet))


async def _launch(fleet: "Fleet | None") -> None:
    from warpfleet.cluster.control import ClusterClient, OpenRequest  # noqa: PLC0415
    from warpfleet.cluster.running import control_path, find_running  # noqa: PLC0415
    from warpfleet.cluster.session import end_daemon, let_stay, private_folder, start_daemon  # noqa: PLC0415

    if find_running():
        raise InputError("a cluster is running already; take it down first: warpfleet cluster down")
    _say("starting Ray and the actors")
    folder = private_folder()
    daemon = await start_daemon(folder, "only")
    try:
        if fleet:
            await ClusterClient(control_path(folder)).ask(OpenRequest(fleet), on_event=lambda event: _say(str(event)))
        let_stay(daemon)
    except BaseException:
        await end_daemon(daemon)
        raise
    _say(f"up, serving fleet {fleet.name}" if fleet else "up, open for the first fleet that comes")


@app.command()
def down() -> None:
    """End the running cluster: its sweeps are stopped and recorded, and nothing of it is left."""
    from warpfleet.cluster.running import find_running  # noqa: PLC0415
    from warpfleet.cluster.session import take_down  # noqa: PLC0415

    running = find_running()
    if running is None:
        raise MissingError(_NONE)
    asyncio.run(take_down(running))
    _say("down")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the running cluster: hosts, actors, nodes and what is in flight. Exit status 3 where there is none."""
    from warpfleet.cluster.control import ClusterClient, StatusRequest  # noqa: PLC0415
    from warpfleet.cluster.running import find_running  # noqa: PLC0415
    from warpfleet.cluster.status import ClusterStatus  # noqa: PLC0415

    running = find_running()
    if running is None:
        raise MissingError(_NONE)
    if not running.ready:
        raise MissingError("the cluster is starting; ask again in some seconds, or end it: warpfleet cluster down")
    found = asyncio.run(ClusterClient(running.socket).ask(StatusRequest()))
    assert isinstance(found, ClusterStatus)
    if as_json:
        print(json.dumps(asdict(found), default=str))
    else:
        _show(found)


def _show(found: "ClusterStatus") -> None:
    out = console()
    age = datetime.now(UTC) - found.started_at
    fleet = f"fleet {found.fleet}, {len(found.nodes)} nodes" if found.fleet else "no fleet yet"
    out.print(f"process {found.pid}, up for {str(age).split('.')[0]}, {fleet}", highlight=False)
    hosts = Table("host", "address", "alive", box=None)
    for host in found.hosts:
        hosts.add_row(host.name, host.address, "yes" if host.alive else "no")
    actors = Table("actor", "host", "pid", "alive", "restarts", "MiB", box=None)
    for actor in found.actors:
        memory = "-" if actor.memory_mib is None else f"{actor.memory_mib:.0f}"
        pid = str(actor.pid or "-")
        actors.add_row(actor.role, actor.host, pid, "yes" if actor.alive else "no", str(actor.restarts), memory)
    nodes = Table("node", "host", "vantage", "external", "NAT", "TCP ports", box=None)
    for node in found.nodes:
        external, nat = " ".join(node.external.values()), " ".join(node.nat.values())
        nodes.add_row(
            node.name, node.host, escape(node.vantage), external or "-", nat or "-", " ".join(map(str, node.ports))
        )
    jobs = Table("in flight", "since", "done", "connections", box=None)
    for job in found.jobs:
        p = job.progress
        done = f"{p.done} of {p.total}, {p.count(ConnectionOutcome.DIRECT)} direct"
        jobs.add_row(escape(job.what), f"{job.started_at:%H:%M:%S} UTC", done, str(p.in_flight))
    for table in (hosts, actors, nodes, jobs):
        if table.row_count:
            out.print("")
            out.print(table)
    if not found.jobs:
        out.print("\nnothing in flight")
