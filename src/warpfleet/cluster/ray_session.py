"""A private Ray on this machine: loopback only, token authentication, gone with this process."""

import asyncio
import contextlib
import json
import logging
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import ray

from warpfleet.cluster import TOKEN_PATH
from warpfleet.core.errors import MissingError

_START_S = 60.0  # two seconds on an idle machine; a loaded one may take ten times as long
_END_S = 15.0
_TOKEN_CHARS = 64  # 256 bits

_log = logging.getLogger(__name__)


@asynccontextmanager
async def ray_session() -> AsyncIterator[Path]:
    """Ray is up, and this process is connected to it, until the block ends; yields a private folder (0700).

    MissingError where Ray does not start.
    """
    _make_token()
    folder = Path(tempfile.mkdtemp(prefix="warpfleet-"))
    keeper = await _start_keeper(folder)
    try:
        address = await _address(keeper, folder)
        await asyncio.to_thread(
            ray.init, address=address, namespace="warpfleet", log_to_driver=False, logging_level=logging.ERROR
        )
        yield folder
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
        await _end_keeper(keeper)


def _make_token() -> None:
    """The user's token, in a file that only the user may read: the one that Ray would make has the usual umask.

    MissingError where it cannot be written.
    """
    try:
        TOKEN_PATH.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if TOKEN_PATH.exists() and TOKEN_PATH.stat().st_size >= _TOKEN_CHARS:
            TOKEN_PATH.chmod(0o600)
            return
        with tempfile.NamedTemporaryFile("w", dir=TOKEN_PATH.parent, delete=False) as file:
            file.write(secrets.token_hex(_TOKEN_CHARS // 2))
        Path(file.name).replace(TOKEN_PATH)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MissingError(
            f"{TOKEN_PATH}: cannot be written: {reason}; set XDG_STATE_HOME to a folder of yours"
        ) from None


async def _start_keeper(folder: Path) -> asyncio.subprocess.Process:
    log = folder / "keeper.log"
    with log.open("wb") as errors:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "warpfleet.cluster.keeper",
            str(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C reaches only us: Ray is needed to end cleanly
        )


async def _address(keeper: asyncio.subprocess.Process, folder: Path) -> str:
    assert keeper.stdout is not None
    try:
        async with asyncio.timeout(_START_S):
            line = await keeper.stdout.readline()
        return str(json.loads(line)["address"])
    except (TimeoutError, ValueError):
        tail = (folder / "keeper.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise MissingError(f"Ray did not start: {' '.join(tail) or 'no answer'}; run `warpfleet doctor`") from None


async def _end_keeper(keeper: asyncio.subprocess.Process) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    try:
        async with asyncio.timeout(_END_S):
            await keeper.wait()
    except TimeoutError:
        _log.warning("Ray's keeper did not end in time: killed")
        keeper.kill()
        await keeper.wait()
