"""Network namespaces: made, entered, filled by batches of `ip` and `nft`, emptied and deleted."""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warpfleet.core.errors import MissingError

NETNS_DIR = Path("/run/netns")  # where ip-netns(8) keeps them
COMMAND_TIMEOUT_S = 120.0  # a batch for a thousand hosts takes about thirty seconds
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def run(command: list[str], text: str | None = None) -> str:
    """Run a program to its end; its standard output. MissingError, with its last line, where it fails."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise MissingError(f"the program '{command[0]}' is not there; run: warpfleet doctor") from None
    if done.returncode:
        complaint = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise MissingError(f"'{' '.join(command[:6])}' failed: {complaint}; run: warpfleet doctor")
    return done.stdout


def batch(commands: Iterable[str], namespace: str | None = None) -> None:
    """Run lines of `ip` in one process, in a namespace or in the current one. MissingError where one fails."""
    text = "\n".join(commands)
    if text:
        run(["ip", *(["-n", namespace] if namespace else []), "-batch", "-"], text + "\n")


def add_address(address: str, device: str) -> str:
    """The line of `ip` that gives a device an address with its prefix length. One of IPv6 is usable at once: even where
    it is not looked for at others, the kernel would call it tentative for a moment, and let nobody bind to it."""
    return f"addr add {address} dev {device}" + (" nodad" if ":" in address else "")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Put this thread into a namespace, and back. What it opens or starts in between belongs there for life."""
    with open("/proc/thread-self/ns/net") as home, open(NETNS_DIR / namespace) as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def write_sysctls(values: dict[str, str]) -> None:
    """Write kernel settings of the namespace that this thread is in; one whose feature the kernel lacks is skipped."""
    for path, value in values.items():
        setting = Path("/proc/sys", path)
        if setting.exists():
            setting.write_text(value)


def existing(prefix: str) -> list[str]:
    """The names of the namespaces that begin with `prefix`."""
    if not NETNS_DIR.is_dir():
        return []
    return sorted(path.name for path in NETNS_DIR.iterdir() if path.name.startswith(prefix))


def processes_inside(namespaces: Iterable[str]) -> set[int]:
    """The processes whose main thread is in one of the namespaces, apart from this one."""
    inodes = {(NETNS_DIR / name).stat().st_ino for name in namespaces}
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (entry / "ns/net").stat().st_ino in inodes:
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def delete(namespaces: Iterable[str]) -> None:
    """Delete namespaces; a name whose file is no namespace any more is removed all the same."""
    batch(f"netns delete {name}" for name in namespaces)


def has_netem(namespace: str) -> bool:
    """Whether this kernel delays packets itself; tried on the loopback device of a namespace."""
    for action in (["add", "dev", "lo", "root", "netem", "delay", "1ms"], ["del", "dev", "lo", "root"]):
        try:
            run(["tc", "-n", namespace, "qdisc", *action])
        except MissingError:
            return False
    return True
