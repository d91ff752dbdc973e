"""The log and the Parquet segments of one directory, and how a killed writer's are completed."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from warpfleet.core.combo import ConnectionOutcome, Policy, Reason
from warpfleet.telemetry.columns import TableName, to_batch
from warpfleet.telemetry.log import Log, RecordKind, read_log
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, Row, StartedRow
from warpfleet.telemetry.segments import (
    attempt_key,
    attempt_keys,
    create_tables,
    ended_ids,
    last_generation,
    write_segment,
)

LOG_FOLDER = "log"
_INTERRUPTED = "the sweep ended before this connection did"
MAX_LOG_BYTES = 32 * 1024 * 1024  # a rotation reads its log whole: this bounds its memory


class Store:
    """The log and the segments of a locked directory. Opening one brings what a killed writer left behind into the
    tables; connections that it left open stay so.

    The log of a generation becomes the segments of the same number, and is removed once they are on the disk.
    A kill in between leaves both, and the next opening writes the same segments again: each row is there once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._folder = directory / LOG_FOLDER
        self._folder.mkdir(exist_ok=True)
        create_tables(directory)
        self._waiting_rows = 0
        self._open: dict[str, StartedRow] = {}
        old_logs = sorted(self._folder.glob("*.log"))
        for path in old_logs:
            self._open |= _started_in(path)
            self._write_segments(path)
        self._ended = ended_ids(directory)
        self._open = {c: row for c, row in self._open.items() if c not in self._ended}
        last = last_generation(directory)
        # What was being written when the writer died may be offered again: it is in what was written last.
        self._offered = attempt_keys(directory, last)
        self._generation = max(last, *(int(path.stem) for path in old_logs), 0) + 1
        self._log = self._new_log()
        self._append(RecordKind.STARTED, self._open.values())
        for path in old_logs:
            path.unlink()

    @property
    def open_ids(self) -> list[str]:
        """The connections that have been started and have not ended."""
        return list(self._open)

    def append(self, kind: RecordKind, rows: Iterable[Row]) -> None:
        """Log rows that have no bearing on which connections are open."""
        self._append(kind, rows)
        self._rotate_if_large()

    def attempts(self, rows: Iterable[AttemptRow]) -> None:
        """Log attempts, but for those that the writer before this one has logged."""
        self.append(RecordKind.ATTEMPTS, [row for row in rows if attempt_key(row) not in self._offered])

    def started(self, rows: Iterable[StartedRow]) -> None:
        """Log the connections that are neither under way nor ended."""
        new = {
            row.connection_id: row
            for row in rows
            if row.connection_id not in self._ended and row.connection_id not in self._open
        }
        self._append(RecordKind.STARTED, new.values())
        self._open |= new
        self._rotate_if_large()

    def ended(self, rows: Iterable[ConnectionRow]) -> None:
        """Log each row that is the first of its connection."""
        new: dict[str, ConnectionRow] = {}
        for row in rows:
            if row.connection_id not in self._ended:
                new.setdefault(row.connection_id, row)
        self._append(RecordKind.CONNECTIONS, new.values())
        self._ended |= new.keys()
        for connection_id in new:
            self._open.pop(connection_id, None)
        self._rotate_if_large()

    def end_open(self, outcome: ConnectionOutcome, reason: Reason, error: str) -> int:
        """End every connection that is still open, in this way; how many there were."""
        rows = [_ended(row, outcome, reason, error) for row in self._open.values()]
        self.ended(rows)
        return len(rows)

    def interrupt_open(self) -> int:
        """End every connection that a dead writer left open, since its sweep ended with it; how many there were."""
        return self.end_open(ConnectionOutcome.CANCELLED, Reason.INTERRUPTED, _INTERRUPTED)

    def rotate(self) -> None:
        """Turn what is logged into segments, and go on with a new log that knows the open connections."""
        if not self._waiting_rows:
            return
        done = self._log
        self._generation += 1
        self._log = self._new_log()
        self._waiting_rows = 0
        self._append(RecordKind.STARTED, self._open.values())
        done.close()
        self._write_segments(done.path)
        done.path.unlink()

    def close(self) -> int:
        """End what is open as interrupted, and leave nothing but segments; how many were open."""
        interrupted = self.interrupt_open()
        self.rotate()
        self._log.close()
        self._log.path.unlink()
        return interrupted

    def _append(self, kind: RecordKind, rows: Iterable[Row]) -> None:
        batch = to_batch(rows, kind.schema)
        if batch.num_rows == 0:
            return
        self._log.append(kind, batch)
        if kind is not RecordKind.STARTED:
            self._waiting_rows += batch.num_rows

    def _rotate_if_large(self) -> None:
        if self._log.size_bytes >= MAX_LOG_BYTES:
            self.rotate()

    def _new_log(self) -> Log:
        return Log(self._folder / f"{self._generation:08}.log")

    def _write_segments(self, path: Path) -> None:
        batches: dict[TableName, list[pa.RecordBatch]] = {}
        for kind, batch in read_log(path):
            if kind is not RecordKind.STARTED:
                batches.setdefault(kind.table, []).append(batch)
        for table, of_table in batches.items():
            write_segment(self._directory, table, int(path.stem), of_table)


def _started_in(path: Path) -> dict[str, StartedRow]:
    rows = [row for kind, batch in read_log(path) if kind is RecordKind.STARTED for row in batch.to_pylist()]
    return {row["connection_id"]: StartedRow(**row | {"policy": Policy(row["policy"])}) for row in rows}


def _ended(row: StartedRow, outcome: ConnectionOutcome, reason: Reason, error: str) -> ConnectionRow:
    return ConnectionRow(**asdict(row), outcome=outcome, reason=reason, error=error)


def is_incomplete(directory: Path) -> bool:
    """Whether a writer is at work, or died, and we may complete what it left."""
    return any((directory / LOG_FOLDER).glob("*.log")) and os.access(directory, os.W_OK)
