"""The role that writes the telemetry of every sweep under way."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from warpfleet.core.combo import ConnectionOutcome, Reason
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, NatObservationRow, Row, StartedRow
from warpfleet.telemetry.sweep import Sweep

if TYPE_CHECKING:
    from warpfleet.telemetry.writer import TelemetryWriter

_TICK_S = 2.0  # how long a reader waits at most for rows of a quiet sweep

_log = logging.getLogger(__name__)

R = TypeVar("R", StartedRow, ConnectionRow, AttemptRow, NatObservationRow)


def _of(kind: type[R], rows: Iterable[Row]) -> list[R]:
    return [row for row in rows if type(row) is kind]  # a row of a connection's end is one of its start, too


class TelemetryHost:
    """Several sweeps, a directory each. Rows find theirs by sweep id; those of a responder's side, which does not know
    the sweep, by the connection. Rows of a sweep that is not open are dropped: `connect` keeps none."""

    def __init__(self) -> None:
        self._writers: dict[str, TelemetryWriter] = {}
        self._sweep_of: dict[str, str] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def open_sweep(self, directory: Path, sweep: Sweep, *, resume: bool, take_over: bool = False) -> Sweep:
        """Open a directory; the sweep as it is recorded there. With `take_over` its connections go on, which another
        host had begun to record. InputError, MissingError."""
        # Arrow takes 40 MB, which the processes of the other roles, that import this file too, need not have.
        from warpfleet.telemetry.writer import TelemetryWriter  # noqa: PLC0415

        if take_over and sweep.sweep_id in self._writers:
            return sweep
        writer = TelemetryWriter(directory, sweep, resume=resume, take_over=take_over)
        self._writers[writer.sweep.sweep_id] = writer
        self._sweep_of.update(dict.fromkeys(writer.open_ids, writer.sweep.sweep_id))
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())
        return writer.sweep

    async def close_sweep(self, sweep_id: str) -> None:
        """Bring every row into the tables and close the directory."""
        writer = self._writers.pop(sweep_id, None)
        if writer:
            writer.close(datetime.now(UTC))
        self._sweep_of = {c: s for c, s in self._sweep_of.items() if s != sweep_id}

    async def coordinator_died(self) -> None:
        """End what was under way; the sweeps try it again."""
        for writer in self._writers.values():
            writer.end_open(ConnectionOutcome.ERROR, Reason.ACTOR_DIED, "the coordinator actor died")

    async def write(self, rows: Sequence[Row]) -> dict[str, str]:
        """Connections begin, attempts end, connections end, NATs were observed: in this order, whatever theirs is. The
        sweeps of which some rows could not be written, and why: the others have theirs all the same."""
        starts, failed = _of(StartedRow, rows), dict[str, str]()
        self._sweep_of.update((row.connection_id, row.sweep_id) for row in starts if row.sweep_id in self._writers)
        attempts = [self._placed(row) for row in _of(AttemptRow, rows)]
        self._write(starts, lambda writer: writer.started, failed)
        self._write(attempts, lambda writer: writer.attempts, failed)
        self._write(_of(ConnectionRow, rows), lambda writer: writer.connections, failed)
        self._write(_of(NatObservationRow, rows), lambda writer: writer.observations, failed)
        return failed

    async def serve(self) -> None:
        """Return when closed; whoever awaits this learns at once when the process dies."""
        await self._closed.wait()

    async def close(self) -> None:
        """Close every sweep."""
        for sweep_id in list(self._writers):
            await self.close_sweep(sweep_id)
        if self._ticker:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        self._closed.set()

    def _placed(self, row: AttemptRow) -> AttemptRow:
        return row if row.sweep_id else replace(row, sweep_id=self._sweep_of.get(row.connection_id, ""))

    def _write(
        self,
        rows: Iterable[R],
        method_of: "Callable[[TelemetryWriter], Callable[[Iterable[R]], None]]",
        failed: dict[str, str],
    ) -> None:
        by_sweep = attrgetter("sweep_id")
        for sweep, group in groupby(sorted(rows, key=by_sweep), key=by_sweep):
            if writer := self._writers.get(sweep):
                try:
                    method_of(writer)(list(group))
                except Exception as error:  # noqa: BLE001 - a full disk, a value that fits no column: one sweep's own
                    _log.error("rows of sweep %s were not written", sweep, exc_info=error)
                    failed.setdefault(sweep, str(error))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for writer in self._writers.values():
                writer.tick()
