"""A cluster for one command: the one that stays, where there is one, or else one that ends with the command."""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from warpfleet.cluster.control import ClusterBusy, ClusterClient, DownRequest, FleetRequest, Request
from warpfleet.cluster.running import STAY, RunningCluster, control_path, find_running
from warpfleet.configs.fleet import Fleet
from warpfleet.core.errors import InputError, MissingError

_START_S = 120.0  # some seconds on an idle machine; a loaded one may take ten times as long
_END_S = 20.0
_LOOK_S = 0.1  # a cluster takes seconds to start
_FOLDER_MAX_CHARS = 27  # of the 107 of a Unix socket's path (unix(7)), 80 are ours and Ray's

Daemon = subprocess.Popen[bytes]

_log = logging.getLogger(__name__)


async def ask_cluster(
    fleet: Fleet,
    request: Request,
    *,
    say: Callable[[str], None],
    stopping: asyncio.Event | None = None,
    on_event: Callable[[object], None] = lambda _: None,
) -> object:
    """Have a request of this fleet answered, as `ClusterClient.ask`: by the running cluster, unless there is none or it
    is at work with another fleet. MissingError where what the fleet names is not there, or Ray does not start."""
    running = await _ready_cluster(say)
    if running:
        try:
            return await ClusterClient(running.socket).ask(request, stopping=stopping, on_event=on_event)
        except ClusterBusy as busy:
            say(f"{busy}: a cluster of its own it is")
    async with own_cluster(fleet, say) as client:
        return await client.ask(request, stopping=stopping, on_event=on_event)


async def served_fleet(say: Callable[[str], None]) -> Fleet:
    """The fleet of the running cluster, for whoever serves nodes of it beside the cluster: their TCP ports are free
    ones, since the cluster holds those that it names. InputError where no cluster serves a fleet here."""
    running = await _ready_cluster(say)
    fleet = await ClusterClient(running.socket).ask(FleetRequest()) if running else None
    if not isinstance(fleet, Fleet):
        raise InputError("no cluster is up here that serves a fleet; give a fleet file")
    beside = tuple(node.model_copy(update={"listen": (0,)}) for node in fleet.nodes)
    return fleet.model_copy(update={"nodes": beside})


async def _ready_cluster(say: Callable[[str], None]) -> RunningCluster | None:
    """The cluster that stays, if it is here; one that is starting is waited for."""
    running = find_running()
    if running and not running.ready:
        say("waiting for the cluster that is starting")
    end_s = time.monotonic() + _START_S
    while running and running.is_here and not running.ready and time.monotonic() < end_s:
        await asyncio.sleep(_LOOK_S)
        running = find_running()
    return running if running and running.is_here and running.ready else None


@asynccontextmanager
async def own_cluster(fleet: Fleet, say: Callable[[str], None]) -> AsyncIterator[ClusterClient]:
    """A cluster that ends with the block, and with this process however that ends. MissingError."""
    from warpfleet.cluster.preflight import check_services  # noqa: PLC0415 - takes time that a running cluster saves

    await check_services(fleet)
    say(f"starting Ray and {len(fleet.nodes)} nodes")
    folder = private_folder()
    try:
        daemon = await start_daemon(folder, "own")
        try:
            yield ClusterClient(control_path(folder))
        finally:
            await end_daemon(daemon)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def private_folder() -> Path:
    """A new folder for a daemon, which nobody else may enter, with a path so short that Ray's sockets fit below it."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="warpfleet-", dir=usual if len(usual) <= _FOLDER_MAX_CHARS else "/tmp"))  # noqa: S108


async def start_daemon(folder: Path, kind: str) -> Daemon:
    """Start a daemon (see `cluster.daemon`) and return once it can be asked. InputError, MissingError."""
    daemon = _spawn(folder, kind)
    assert daemon.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            answer = json.loads(await asyncio.to_thread(daemon.stdout.readline) or "{}")
    except (TimeoutError, ValueError):
        answer = {}
    except BaseException:
        await end_daemon(daemon)
        raise
    if answer.get("ready"):
        return daemon
    await end_daemon(daemon)
    if answer.get("input"):
        raise InputError(answer["error"])
    raise MissingError(answer.get("error") or "Ray did not start; run `warpfleet doctor`")


def _spawn(folder: Path, kind: str) -> Daemon:
    with (folder / "daemon.log").open("wb") as log:
        return subprocess.Popen(  # not asyncio's, which kills its children when the loop ends
            [sys.executable, "-m", "warpfleet.cluster.daemon", str(folder), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches only us: the daemon is needed to end cleanly
        )


def let_stay(daemon: Daemon) -> None:
    """Let a daemon of ours outlive us."""
    assert daemon.stdin is not None
    daemon.stdin.write(STAY)
    daemon.stdin.close()


async def end_daemon(daemon: Daemon) -> None:
    """Have a daemon of ours end, softly if it can."""
    assert daemon.stdin is not None
    daemon.stdin.close()
    try:
        await asyncio.to_thread(daemon.wait, _END_S)
    except subprocess.TimeoutExpired:
        _log.warning("the cluster did not end in time: killed")
        daemon.kill()
        await asyncio.to_thread(daemon.wait)


async def take_down(running: RunningCluster) -> None:
    """End a cluster that stays; return once nothing of it is left."""
    family = _family(running)
    try:
        await ClusterClient(running.socket).ask(DownRequest())
    except MissingError:
        _log.warning("the cluster does not answer: ended by force")
        for process in family[:1]:
            process.kill()
    _, left = await asyncio.to_thread(psutil.wait_procs, family, _END_S)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    await asyncio.to_thread(psutil.wait_procs, left, _END_S)
    await asyncio.to_thread(shutil.rmtree, running.folder, ignore_errors=True)


def _family(running: RunningCluster) -> list[psutil.Process]:
    """The daemon, what runs below it, and its guard: those that are there."""
    found = []
    with suppress(psutil.NoSuchProcess):
        daemon = psutil.Process(running.pid)
        found = [daemon, *daemon.children(recursive=True)]
    with suppress(psutil.NoSuchProcess):
        found.append(psutil.Process(running.guard))
    return found
