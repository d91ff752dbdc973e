"""Privilege: root's own, or that of a user namespace where the kernel lets ordinary users make one.

Without root, a holder process keeps a user, a network and a mount namespace alive in which the user may do everything
that a laboratory needs; each command joins it by running itself again inside. The holder ends with the last laboratory.
"""

import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path

from warpfleet.configs.state import state_dir as user_state_dir
from warpfleet.core.errors import MissingError
from warpfleet.lab import processes
from warpfleet.lab.processes import Owned

_STATE_VARIABLE = "WARPFLEET_ROOTLESS_STATE"  # set inside the holder's namespaces alone
_ROOT_STATE_DIR = Path("/run/warpfleet")
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21  # linux/capability.h
_HOLDER_TIMEOUT_S = 10.0
_LOCK_DEADLINE_S = 120.0  # another command may be bringing up a thousand hosts
_POLL_S = 0.01
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian keeps nft and the servers; not in a user's PATH


class Mode(StrEnum):
    """How this process gets, or has, the right to make network namespaces."""

    ROOT = "root"
    ROOTLESS = "rootless"
    NONE = "none"


def mode() -> Mode:
    """What this machine allows this user."""
    if _STATE_VARIABLE in os.environ:
        return Mode.ROOTLESS
    if _capable():
        return Mode.ROOT
    try:
        tried = subprocess.run(
            ["unshare", "-Urnm", "true"], capture_output=True, timeout=_HOLDER_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return Mode.NONE
    return Mode.NONE if tried.returncode else Mode.ROOTLESS


def ensure_privilege(argv: list[str] | None = None) -> None:
    """Return where this process may make network namespaces; else run `argv` (itself) where it may, or MissingError."""
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:{_SYSTEM_PATH}"
    if _STATE_VARIABLE in os.environ or _capable():
        return
    if mode() is Mode.NONE:
        raise MissingError("a laboratory needs root, and this kernel gives users no namespaces; run it with sudo")
    state = _private_dir(user_state_dir() / "rootless")
    with locked(state):
        holder = _read_holder(state) or _start_holder(state)
    enter = ["nsenter", "--preserve-credentials", "-U", "-n", "-m", f"--wd={Path.cwd()}", "-t", str(holder.pid), "--"]
    os.environ[_STATE_VARIABLE] = str(state)
    sys.stdout.flush()
    os.execvp(enter[0], [*enter, *(argv or [sys.executable, *sys.orig_argv[1:]])])  # noqa: S606


def state_dir() -> Path:
    """The folder of all laboratories, one folder each; made where it is not there."""
    base = Path(os.environ.get(_STATE_VARIABLE, _ROOT_STATE_DIR))
    return _private_dir(_private_dir(base) / "labs")


def release() -> None:
    """After the last laboratory: remove the empty folders, and end the holder if this process runs inside one."""
    base = Path(os.environ.get(_STATE_VARIABLE, _ROOT_STATE_DIR))
    if _STATE_VARIABLE in os.environ:
        if holder := _read_holder(base):
            processes.stop([holder])
        (base / "holder.json").unlink(missing_ok=True)
    for folder in (base / "labs", base):
        with suppress(OSError):  # somebody else keeps something there
            folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which is remade if it was removed in the meantime. MissingError after a long wait."""
    deadline_s = time.monotonic() + _LOCK_DEADLINE_S
    while (descriptor := try_lock(folder)) is None:
        if time.monotonic() > deadline_s:
            raise MissingError(f"another laboratory command holds {folder} for too long; end it and try again")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)


def try_lock(folder: Path) -> int | None:
    """A descriptor that holds the lock on a folder until it is closed, or None where another process has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == folder.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _capable() -> bool:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    effective = int(status["CapEff"], 16)
    return all(effective >> capability & 1 for capability in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN))


def _private_dir(path: Path) -> Path:
    """A folder that is ours and that nobody else can enter. MissingError where somebody else made it."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise MissingError(f"{path} is not a folder of yours that is closed to others; remove it")
    return path


def _read_holder(state: Path) -> Owned | None:
    try:
        holder = Owned(**json.loads((state / "holder.json").read_text()))
    except FileNotFoundError:
        return None
    return holder if holder.alive else None


def _start_holder(state: Path) -> Owned:
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private", "--"]
    started = subprocess.Popen(
        [*command, sys.executable, "-m", "warpfleet.lab.rootless"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # ours may be a pipe, whose reader would wait for the holder to end
        start_new_session=True,
    )
    assert started.stdout is not None
    ready = select.select([started.stdout], [], [], _HOLDER_TIMEOUT_S)[0] and started.stdout.readline()
    holder = processes.owned("holder", started.pid)
    if not ready or holder is None:
        started.kill()
        raise MissingError("the namespaces of an ordinary user could not be set up; run the laboratory with sudo")
    (state / "holder.json").write_text(json.dumps(asdict(holder)))
    return holder


def _hold() -> None:
    """The holder itself: a private /run for `ip netns`, a loopback that is up, and then nothing until it is ended."""
    os.chdir("/")
    for command in (["mount", "-t", "tmpfs", "tmpfs", "/run"], ["ip", "link", "set", "lo", "up"]):
        subprocess.run(command, check=True, timeout=_HOLDER_TIMEOUT_S)
    Path("/run/netns").mkdir()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    signal.pause()


if __name__ == "__main__":
    _hold()
