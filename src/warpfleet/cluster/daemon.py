"""The process that a cluster lives in: Ray, a fleet's actors, and a socket on which commands ask for things.

Run as `python -m warpfleet.cluster.daemon FOLDER KIND`. It prints one line of JSON once it can be asked. It ends with
its input, unless `stay` came there, or when it is asked to. KIND `only`: the cluster that this user's commands find, of
which there is one; `own`: that of the command that starts it.
"""

import asyncio
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import psutil
import ray

from warpfleet.actors.own_node import NodeReport
from warpfleet.actors.values import NodeSpec
from warpfleet.cluster.attachments import Attachments
from warpfleet.cluster.control import (
    AttachRequest,
    CancelRequest,
    ClusterBusy,
    ConnectRequest,
    DownRequest,
    FleetRequest,
    LinkRequest,
    OpenRequest,
    Request,
    StatusRequest,
    SweepRequest,
    Tell,
    control_socket,
)
from warpfleet.cluster.guard import guarded
from warpfleet.cluster.preflight import check_services, check_stun
from warpfleet.cluster.progress import Progress
from warpfleet.cluster.ray_host import ray_host
from warpfleet.cluster.recorded_sweep import recorded_sweep
from warpfleet.cluster.running import STAY, as_running, control_path
from warpfleet.cluster.services import with_embedded_services
from warpfleet.cluster.status import ActorStatus, ClusterStatus, HostStatus, Job, NodeStatus
from warpfleet.cluster.supervisor import Actor, Supervisor
from warpfleet.cluster.sweep import run_sweep, should_have_worked
from warpfleet.configs.fleet import Fleet, FleetNode
from warpfleet.configs.state import observatory_path
from warpfleet.core.errors import InputError, WarpfleetError
from warpfleet.core.identity import Identity
from warpfleet.core.peer import ADDRESS_FAMILIES
from warpfleet.net.vantage import Vantage
from warpfleet.telemetry.records import ConnectionRow


class Daemon:
    """Answers requests. Serves one fleet at a time: another one takes its place when nobody is at work with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started_at = datetime.now(UTC)
        self._supervisor: Supervisor | None = None
        self._fleet: Fleet | None = None
        self._places: list[str] = []  # the namespaces that its nodes are in: a new one of the same name is another
        self._opening = asyncio.Lock()
        self._embedded = AsyncExitStack()
        self._jobs: list[Job] = []
        self._attachments = Attachments(folder)
        self.ended = asyncio.Event()

    async def start(self) -> Supervisor:
        """Have the actors ready for a fleet. MissingError."""
        supervisor = self._supervisor = Supervisor(self._folder, observatory_path())
        await supervisor.start()
        return supervisor

    async def close(self) -> None:
        """Close the fleet's nodes and end the actors."""
        self._fleet = None
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            await supervisor.close()
        await self._embedded.aclose()
        self._embedded = AsyncExitStack()

    async def answer(self, request: Request, stopping: asyncio.Event, tell: Tell) -> object:
        """Carry out one request. WarpfleetError of any kind."""
        if isinstance(request, SweepRequest):
            return await self._sweep(request, stopping, tell)
        if isinstance(request, ConnectRequest):
            return await self._connect(request, stopping, tell)
        if isinstance(request, OpenRequest):
            async with self._opening:
                await self._open(request.fleet, tell)
            return None
        if isinstance(request, StatusRequest):
            return await self._status()
        if isinstance(request, LinkRequest | CancelRequest):
            return await self._attachments.link(request, stopping)
        if isinstance(request, AttachRequest):
            await self._attach(request, stopping, tell)
        if isinstance(request, DownRequest):
            self.ended.set()
        return self._fleet if isinstance(request, FleetRequest) else None

    async def _sweep(self, request: SweepRequest, stopping: asyncio.Event, tell: Tell) -> int:
        async with self._at_work(request.fleet, f"sweep into {request.directory}", tell) as (supervisor, on_progress):
            rows = await recorded_sweep(
                supervisor,
                request.fleet,
                request.plan,
                request.directory,
                resume=request.resume,
                concurrency=request.concurrency,
                stopping=stopping,
                on_progress=on_progress,
            )
        return sum(should_have_worked(row) for row in rows)

    async def _connect(self, request: ConnectRequest, stopping: asyncio.Event, tell: Tell) -> ConnectionRow | None:
        what = f"connect {request.trial.initiator} to {request.trial.responder}"
        async with self._at_work(request.fleet, what, tell) as (supervisor, on_progress):
            rows = await run_sweep(
                supervisor,
                uuid4().hex,
                request.fleet.realm,
                [request.trial],
                policy=request.policy,
                pin=request.pin,
                concurrency=1,
                stopping=stopping,
                on_progress=on_progress,
            )
        return rows[0] if rows else None

    async def _attach(self, request: AttachRequest, stopping: asyncio.Event, tell: Tell) -> None:
        async with self._opening:
            serving = (self._supervisor, self._fleet) if self._supervisor and self._fleet else None
            attached = self._attachments.attach(request, serving)
            job = Job(f"node {request.node}, attached", datetime.now(UTC), Progress(0))
            self._jobs.append(job)
        try:
            await attached.last(stopping, tell)
        finally:
            self._jobs.remove(job)

    @asynccontextmanager
    async def _at_work(
        self, fleet: Fleet, what: str, tell: Tell
    ) -> AsyncIterator[tuple[Supervisor, Callable[[Progress], None]]]:
        """The fleet is open and stays so until the block ends; yields also what takes the work's progress."""
        async with self._opening:
            supervisor = await self._open(fleet, tell)
            job = Job(what, datetime.now(UTC), Progress(0))
            self._jobs.append(job)

        def on_progress(progress: Progress) -> None:
            job.progress = progress
            tell(progress)

        try:
            yield supervisor, on_progress
        finally:
            self._jobs.remove(job)

    async def _open(self, fleet: Fleet, tell: Tell) -> Supervisor:
        """Open the fleet's nodes, unless they are open. ClusterBusy, MissingError."""
        places = [Vantage.of(node.vantage).machine_id() for node in fleet.nodes]
        supervisor = self._supervisor
        if supervisor and not supervisor.lost.done() and (fleet, places) == (self._fleet, self._places):
            return supervisor
        if self._jobs:
            raise ClusterBusy(f"the cluster is at work with fleet {self._fleet.name if self._fleet else ''}")
        tell(f"opening {len(fleet.nodes)} nodes")
        await check_services(fleet)
        if self._fleet or supervisor is None or supervisor.lost.done():
            await self.close()
            supervisor = await self.start()
        try:
            whole = await self._embedded.enter_async_context(with_embedded_services(fleet))
            await supervisor.open([_spec(node, whole) for node in fleet.nodes])
            check_stun(whole, supervisor.reports)
        except BaseException:
            await self.close()
            raise
        self._fleet, self._places = fleet, places
        return supervisor

    async def _status(self) -> ClusterStatus:
        supervisor = self._supervisor
        hosts = await asyncio.to_thread(ray.nodes)
        nodes = zip(self._fleet.nodes, supervisor.reports, strict=True) if self._fleet and supervisor else ()
        return ClusterStatus(
            version=version("warpfleet"),
            pid=os.getpid(),
            started_at=self._started_at,
            fleet=self._fleet.name if self._fleet else None,
            hosts=tuple(
                HostStatus(name=h["NodeName"], address=h["NodeManagerAddress"], alive=h["Alive"]) for h in hosts
            ),
            actors=tuple(map(_actor_status, supervisor.actors.values())) if supervisor else (),
            nodes=tuple(_node_status(*item) for item in nodes),
            jobs=tuple(self._jobs),
        )


def _actor_status(actor: Actor) -> ActorStatus:
    return ActorStatus(
        role=actor.role,
        host=socket.gethostname(),
        pid=actor.pid,
        alive=actor.ready.is_set(),
        restarts=actor.restarts,
        memory_mib=_memory_mib(actor.pid),
    )


def _node_status(node: FleetNode, report: NodeReport) -> NodeStatus:
    view = report.view
    return NodeStatus(
        name=node.name,
        host=socket.gethostname(),
        vantage=str(Vantage.of(node.vantage)),
        external=dict(view.external),
        nat={af: nat.alias for af, nat in view.nat.items()},
        ports=tuple(sorted({port for af in ADDRESS_FAMILIES for port in view.ports(af)})),
    )


def _spec(node: FleetNode, fleet: Fleet) -> NodeSpec:
    services = fleet.services
    return NodeSpec(
        identity=Identity.generate(node.name, secrets.token_bytes(32)),
        vantage=Vantage.of(node.vantage),
        listen=node.listen,
        brokers=services.mqtt,
        stun=services.stun,
        turn=services.turn,
        ntp=tuple(str(server) for server in services.ntp),
        realm=fleet.realm,
        plain=node.plain,
    )


def _memory_mib(pid: int | None) -> float | None:
    try:
        return psutil.Process(pid).memory_full_info().pss / 2**20 if pid else None
    except psutil.Error:
        return None


class _Leash:
    """Standard input: its end is ours, unless the word to stay came before it."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self._stays = False
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._read)

    def _read(self) -> None:
        data = os.read(sys.stdin.fileno(), len(STAY))
        self._stays = self._stays or data == STAY
        if not data:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            if not self._stays:
                self.end.set()


async def _serve(folder: Path, ready: Callable[[], None]) -> None:
    daemon, leash = Daemon(folder), _Leash()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.ended.set)
    ends = [asyncio.ensure_future(event.wait()) for event in (daemon.ended, leash.end)]
    try:
        starting = asyncio.ensure_future(daemon.start())
        await asyncio.wait({starting, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        await starting
        async with control_socket(control_path(folder), daemon.answer):
            ready()
            print(json.dumps({"ready": True}), flush=True)  # noqa: T201 - the parent reads it
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await daemon.close()


def main(folder: Path, *, only: bool) -> int:
    """Keep a cluster until it is to end; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command: it asks us to stop what it wants stopped
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    try:
        with as_running(folder) if only else nullcontext(lambda: None) as ready, ray_host(folder):
            asyncio.run(_serve(folder, ready))
    except WarpfleetError as error:
        print(json.dumps({"error": str(error), "input": isinstance(error, InputError)}), flush=True)  # noqa: T201
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the guard does so, too, if it lives
    return 0


if __name__ == "__main__":
    private = Path(sys.argv[1])
    sys.exit(guarded(lambda: main(private, only=sys.argv[2] == "only"), private))
