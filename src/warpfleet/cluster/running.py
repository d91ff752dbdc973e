"""The cluster of this user that stays: a file that says where it is, locked for as long as its daemon lives."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from warpfleet.configs.state import state_dir, state_path
from warpfleet.core.errors import InputError

_FILE = "cluster.json"
STAY = b"stay\n"  # said to a daemon that may outlive the command that started it
_RECORD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A daemon that stays, below its guard. `network` is the network namespace that it runs in, by its inode; before it
    is `ready` nobody can ask it anything."""

    pid: int
    guard: int
    folder: str
    network: int
    ready: bool = False

    @property
    def socket(self) -> Path:
        """Where it takes requests."""
        return control_path(Path(self.folder))

    @property
    def is_here(self) -> bool:
        """Whether it sees the network that this process sees."""
        return self.network == own_network()


def control_path(folder: Path) -> Path:
    """The control socket of a daemon with this folder."""
    return folder / "control"


def own_network() -> int:
    """The inode of this process's network namespace."""
    return Path("/proc/self/ns/net").stat().st_ino


def find_running() -> RunningCluster | None:
    """The cluster that stays, if there is one, or one is starting."""
    try:
        descriptor = os.open(state_path() / _FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, _RECORD_BYTES, 0)
        return RunningCluster(**json.loads(text)) if text.strip() else None
    finally:
        os.close(descriptor)
    return None


@contextmanager
def as_running(folder: Path) -> Iterator[Callable[[], None]]:
    """This process is the cluster that stays, until the block ends; yields what says that it is ready. InputError where
    there is one already."""
    path = state_dir() / _FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("a cluster is running already; take it down first: warpfleet cluster down") from None
        _sweep_up(os.pread(descriptor, _RECORD_BYTES, 0))
        starting = RunningCluster(os.getpid(), os.getppid(), str(folder), own_network())
        _write(descriptor, starting)
        yield lambda: _write(descriptor, replace(starting, ready=True))
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _write(descriptor: int, running: RunningCluster) -> None:
    record = json.dumps(asdict(running)).encode()
    os.pwrite(descriptor, record.ljust(_RECORD_BYTES), 0)  # one write, so that a reader sees this one or the last


def _sweep_up(record: bytes) -> None:
    """Remove the folder of a daemon that was killed: its processes ended with it."""
    if record.strip():
        shutil.rmtree(json.loads(record)["folder"], ignore_errors=True)
