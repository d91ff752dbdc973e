"""What the kernel says of processes and of network namespaces: CPU time, memory, packets."""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from warpfleet.lab import netns

_NS_PER_MS = 1e6
_KIB_PER_MIB = 1024
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h
_SENT_FIELD = 9  # of a line of /proc/net/dev, after the colon: transmitted packets


def cpu_ms(roots: Iterable[int]) -> float:
    """The CPU time of these processes and all below them; their threads that have ended are in it."""
    total_ns = 0
    for pid in _family(roots):
        with suppress(OSError):
            total_ns += time.clock_gettime_ns(_clock_of(pid))
    return total_ns / _NS_PER_MS


def memory_mib(roots: Iterable[int]) -> float:
    """The proportional set size (PSS) of these processes and all below them."""
    total_kib = 0
    for pid in _family(roots):
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kib += int(line.split()[1])
    return total_kib / _KIB_PER_MIB


def packets_sent(namespaces: Iterable[str]) -> int:
    """The packets that hosts have sent so far, by their network devices; loopback is left out."""
    return sum(_sent(namespace) for namespace in namespaces)


def _sent(namespace: str) -> int:
    with netns.inside(namespace):
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    devices = (line.split(":") for line in lines if ":" in line)
    return sum(int(counts.split()[_SENT_FIELD]) for name, counts in devices if name.strip() != "lo")


def _clock_of(pid: int) -> int:
    """The clock of a process's CPU time, as clock_getcpuclockid(3) makes it; Python has only the one of threads."""
    return (~pid << 3) | _CPUCLOCK_SCHED


def _family(roots: Iterable[int]) -> Iterator[int]:
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            yield root
            yield from (child.pid for child in psutil.Process(root).children(recursive=True))
