"""A cluster for one command: the one that stays, where there is one, or else one that ends with the command."""

import asyncio
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from warpfleet.cluster.control import ClusterBusy, ClusterClient, DownRequest, Request
from warpfleet.cluster.running import RunningCluster, control_path, find_running
from warpfleet.configs.fleet import Fleet
from warpfleet.core.errors import InputError, MissingError

_START_S = 120.0  # some seconds on an idle machine; a loaded one may take ten times as long
_END_S = 20.0

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
    running = find_running()
    if running and running.is_here:
        try:
            return await ClusterClient(running.socket).ask(request, stopping=stopping, on_event=on_event)
        except ClusterBusy as busy:
            say(f"{busy}: a cluster of its own it is")
    async with own_cluster(fleet, say) as client:
        return await client.ask(request, stopping=stopping, on_event=on_event)


@asynccontextmanager
async def own_cluster(fleet: Fleet, say: Callable[[str], None]) -> AsyncIterator[ClusterClient]:
    """A cluster that ends with the block, and with this process however that ends. MissingError."""
    from warpfleet.cluster.preflight import check_services  # noqa: PLC0415 - takes time that a running cluster saves

    await check_services(fleet)
    say(f"starting Ray and {len(fleet.nodes)} nodes")
    folder = Path(tempfile.mkdtemp(prefix="warpfleet-"))
    try:
        daemon = await start_daemon(folder, "bound")
        try:
            yield ClusterClient(control_path(folder))
        finally:
            await end_daemon(daemon)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def start_daemon(folder: Path, mode: str) -> Process:
    """Start a daemon (see `cluster.daemon`) and return once it can be asked. InputError, MissingError."""
    log = folder / "daemon.log"
    with log.open("wb") as errors:
        daemon = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "warpfleet.cluster.daemon",
            str(folder),
            mode,
            stdin=subprocess.PIPE if mode == "bound" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C reaches only us: the daemon is needed to end cleanly
        )
    assert daemon.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            answer = json.loads(await daemon.stdout.readline() or "{}")
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


async def end_daemon(daemon: Process) -> None:
    """Have a daemon of ours end, softly if it can."""
    if daemon.stdin:
        daemon.stdin.close()
    elif daemon.returncode is None:
        daemon.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await daemon.wait()
    except TimeoutError:
        _log.warning("the cluster did not end in time: killed")
        daemon.kill()
        await daemon.wait()


async def take_down(running: RunningCluster) -> None:
    """End a cluster that stays; return once nothing of it is left."""
    process = psutil.Process(running.pid)
    family = [process, *process.children(recursive=True)]
    try:
        await ClusterClient(running.socket).ask(DownRequest())
    except MissingError as error:
        _log.warning("%s: killed", error)
        process.kill()
    _, left = await asyncio.to_thread(psutil.wait_procs, family, _END_S)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    await asyncio.to_thread(psutil.wait_procs, left, _END_S)
    await asyncio.to_thread(shutil.rmtree, running.folder, ignore_errors=True)
