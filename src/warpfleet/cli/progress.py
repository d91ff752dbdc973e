"""The live display of a sweep: bars on a terminal, plain lines elsewhere. On stderr, so that stdout stays clean."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from warpfleet.cluster.progress import Progress
from warpfleet.core.combo import ConnectionOutcome

_LINE_EVERY_S = 5.0  # without a terminal: often enough to see life, seldom enough for a log


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Yields what takes the sweep's progress."""
    if sys.stderr.isatty():
        with _bars() as bars:
            task = bars.add_task("sweep", total=None, facts="starting")
            yield lambda p: bars.update(task, total=p.total, completed=p.done, facts=_facts(p))
    else:
        yield _Lines().show


def _bars() -> Bars:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    return Bars(*columns, console=Console(stderr=True))


class _Lines:
    def __init__(self) -> None:
        self._last_s = 0.0
        self._done = -1

    def show(self, progress: Progress) -> None:
        now_s = time.monotonic()
        finished = progress.done == progress.total
        if progress.done == self._done or (now_s - self._last_s < _LINE_EVERY_S and not finished):
            return
        self._last_s, self._done = now_s, progress.done
        print(f"sweep: {progress.done} of {progress.total} done, {_facts(progress)}", file=sys.stderr, flush=True)


def _facts(progress: Progress) -> str:
    failed = progress.count(ConnectionOutcome.FAILED) + progress.count(ConnectionOutcome.ERROR)
    left = f", {progress.left_s:.0f} s left" if progress.left_s else ""
    return (
        f"{progress.in_flight} in flight, {progress.count(ConnectionOutcome.DIRECT)} direct, "
        f"{progress.count(ConnectionOutcome.RELAYED)} relayed, {failed} failed, {progress.rate_per_s:.1f}/s{left}"
    )
