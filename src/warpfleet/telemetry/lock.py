"""The lock of a telemetry directory: one writer at a time. The kernel releases it with the process that held it."""

import fcntl
import os
from pathlib import Path

from warpfleet.core.errors import InputError


class DirectoryLock:
    """Held from construction until `close`. InputError, naming the process, where another one holds it."""

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise InputError(
                f"{directory}: process {owner} is writing a sweep there; wait for it, or give another --out"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Release the lock. The file stays: removing it would let two writers lock two files of one name."""
        os.close(self._descriptor)
