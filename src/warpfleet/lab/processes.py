"""Processes that a laboratory owns: known by id and start time, so that a reused id is never mistaken for one."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TERM_GRACE_S = 5.0  # what the slowest, the wire of some hundred lines, takes to end at SIGTERM, tenfold
_KILL_GRACE_S = 30.0  # the kernel may have hundreds of sockets to close, one grace period each


@dataclass(frozen=True, slots=True)
class Owned:
    """One process, by what it is for, its id, and the clock ticks after boot at which it began."""

    role: str
    pid: int
    started_ticks: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return _started_ticks(self.pid) == self.started_ticks


def start(role: str, command: list[str], log: Path) -> Owned:
    """Start a daemon in a session of its own, in the namespace of this thread, its output appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    _children[process.pid] = process
    return Owned(role, process.pid, _started_ticks(process.pid) or 0)


def owned(role: str, pid: int) -> Owned | None:
    """A process that runs now, or None where there is none of this id."""
    ticks = _started_ticks(pid)
    return None if ticks is None else Owned(role, pid, ticks)


def stop(processes: Iterable[Owned]) -> None:
    """End processes: SIGTERM, and SIGKILL for what is left after a grace. Returns when all of them are gone."""
    processes = list(processes)
    for signal_number, timeout_s in ((signal.SIGTERM, _TERM_GRACE_S), (signal.SIGKILL, _KILL_GRACE_S)):
        handles = [handle for process in processes if (handle := _handle(process)) is not None]
        try:
            for handle in handles:
                signal.pidfd_send_signal(handle, signal_number)
            _await_end(handles, timeout_s)
        finally:
            for handle in handles:
                os.close(handle)
    for process in processes:
        if child := _children.pop(process.pid, None):
            child.poll()


# The Popen objects of this process's own children, kept so that they are reaped when they are stopped.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


def _handle(process: Owned) -> int | None:
    """A file descriptor that stands for the process, or None where it has ended."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.alive:
        return handle
    os.close(handle)
    return None


def _await_end(handles: list[int], timeout_s: float) -> None:
    poller = select.poll()
    for handle in handles:
        poller.register(handle, select.POLLIN)
    deadline_s, left = time.monotonic() + timeout_s, len(handles)
    while left and (ended := poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000)):
        for handle, _ in ended:
            poller.unregister(handle)
            left -= 1


def _started_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name, in parentheses, may hold anything
    return None if state in "ZX" else int(fields[18])
