"""The one writer of a telemetry directory."""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from warpfleet.core.combo import ConnectionOutcome, Reason
from warpfleet.core.errors import InputError
from warpfleet.telemetry.lock import DirectoryLock
from warpfleet.telemetry.log import RecordKind
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, NatObservationRow, StartedRow
from warpfleet.telemetry.store import Store, is_incomplete
from warpfleet.telemetry.sweep import FILE_NAME, Sweep

MIN_SEGMENT_AGE_S = 2.0  # how stale a reader's view of a young sweep may be
SEGMENT_AGE_SHARE = 0.01  # of the sweep's age: a night then makes some five hundred segments, not eighteen thousand


class TelemetryWriter:
    """Writes the telemetry of one sweep. What a method has returned from survives a kill of the process.

    A directory has one writer at a time. InputError where it has another already, where it cannot be written, where it
    holds a sweep and `resume` is not given, or where it is given and the plans differ. MissingError once the disk is
    full.

    With `take_over` the sweep is one whose writer died, as that had recorded it: its connections are still under way.
    """

    def __init__(
        self,
        directory: Path,
        sweep: Sweep,
        *,
        resume: bool = False,
        take_over: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._clock = clock
        with ExitStack() as undo:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self._lock = DirectoryLock(directory)
                undo.callback(self._lock.close)
                if not take_over:
                    sweep = self._take_up(sweep) if resume else self._begin(sweep)
                self.sweep = sweep
                self._store = Store(directory)
                if not take_over:
                    self._store.interrupt_open()
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise InputError(f"{directory}: cannot be written: {reason}; give another --out") from None
            undo.pop_all()
        self._opened_s = self._rotated_s = clock()

    def started(self, rows: Iterable[StartedRow]) -> None:
        """Connections begin. Each has one row in the end, whatever is killed in between."""
        self._store.started(rows)

    def connections(self, rows: Iterable[ConnectionRow]) -> None:
        """Connections have ended. The first row of a connection counts, later ones are dropped."""
        self._store.ended(rows)
        self.tick()

    def attempts(self, rows: Iterable[AttemptRow]) -> None:
        """Attempts have ended, maybe after their connection did."""
        self._store.attempts(rows)
        self.tick()

    def observations(self, rows: Iterable[NatObservationRow]) -> None:
        """Something was learnt of a NAT."""
        self._store.append(RecordKind.NAT_OBSERVATIONS, rows)
        self.tick()

    @property
    def open_ids(self) -> list[str]:
        """The connections that have been started and have not ended."""
        return self._store.open_ids

    def end_open(self, outcome: ConnectionOutcome, reason: Reason, error: str) -> None:
        """End every connection that is still open, in this way."""
        self._store.end_open(outcome, reason, error)

    def flush(self) -> None:
        """Make everything written so far visible to readers."""
        self._store.rotate()
        self._rotated_s = self._clock()

    def close(self, ended_at: datetime) -> None:
        """End what is still open as interrupted, leave segments only, and release the directory."""
        self._store.close()
        self.sweep = self.sweep.model_copy(update={"ended_at": ended_at})
        self.sweep.write(self._directory)
        self._lock.close()

    def _begin(self, sweep: Sweep) -> Sweep:
        if (self._directory / FILE_NAME).exists():
            raise InputError(f"{self._directory}: holds a sweep already; give --resume to go on, or another --out")
        sweep.write(self._directory)
        return sweep

    def _take_up(self, sweep: Sweep) -> Sweep:
        if not (self._directory / FILE_NAME).exists():
            return self._begin(sweep)
        resumed = Sweep.read(self._directory).continued_by(sweep, self._directory)
        resumed.write(self._directory)
        return resumed

    def tick(self) -> None:
        """Make what was written visible to readers if it is time; to be called now and then."""
        now_s = self._clock()
        if now_s - self._rotated_s >= max(MIN_SEGMENT_AGE_S, (now_s - self._opened_s) * SEGMENT_AGE_SHARE):
            self.flush()


def recover(directory: Path) -> int:
    """Complete what a killed writer left: logged rows become segments, unfinished connections end as interrupted.

    How many there were of these. Nothing is done while a writer is alive, nor where the directory is read-only: what is
    in segments can be read all the same. InputError where the directory holds no sweep.
    """
    Sweep.read(directory)
    if not is_incomplete(directory):
        return 0
    try:
        lock = DirectoryLock(directory)
    except InputError:
        return 0
    try:
        return Store(directory).close()
    finally:
        lock.close()
