"""Parquet segments: immutable files, one a table and a generation, that appear whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warpfleet.core.errors import MissingError
from warpfleet.telemetry.columns import SCHEMAS, TableName
from warpfleet.telemetry.durability import sync
from warpfleet.telemetry.records import AttemptRow

_SUFFIX = ".parquet"
_PATTERN = "[0-9]" * 8 + _SUFFIX


def write_segment(directory: Path, table: TableName, generation: int, batches: Sequence[pa.RecordBatch]) -> None:
    """Write the segment of a generation, on the disk when it returns. Writing the same one again replaces it.

    MissingError where the disk does not take it.
    """
    path = directory / table / f"{generation:08}{_SUFFIX}"
    temporary = path.with_name(f".{path.name}.tmp")  # no glob for *.parquet matches it
    whole = pa.Table.from_batches(batches, SCHEMAS[table]).combine_chunks()
    try:
        pq.write_table(whole, temporary, compression="zstd")
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise MissingError(f"{path}: cannot be written: {error.strerror or error}; free some space") from None


def last_generation(directory: Path) -> int:
    """The highest generation that any table has a segment of."""
    return max(int(path.stem) for table in TableName for path in (directory / table).glob(_PATTERN))


def ended_ids(directory: Path) -> set[str]:
    """The ids of the connections that the segments have a row of."""
    ids: set[str] = set()
    for path in (directory / TableName.CONNECTIONS).glob(_PATTERN):
        ids.update(pq.read_table(path, columns=["connection_id"]).column(0).to_pylist())
    return ids


def attempt_key(row: AttemptRow) -> tuple[str, str, str]:
    """What tells one side of one attempt from all others."""
    return row.connection_id, row.attempt_id, row.side


def attempt_keys(directory: Path, generation: int) -> set[tuple[str, str, str]]:
    """The keys of the attempts in one generation's segment."""
    path = directory / TableName.ATTEMPTS / f"{generation:08}{_SUFFIX}"
    if not path.exists():
        return set()
    rows = pq.read_table(path, columns=["connection_id", "attempt_id", "side"])
    return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def create_tables(directory: Path) -> None:
    """The tables' folders, each with an empty segment, so that a reader's glob always finds the columns."""
    for table in TableName:
        (directory / table).mkdir(exist_ok=True)
        if not (directory / table / f"{0:08}{_SUFFIX}").exists():
            write_segment(directory, table, 0, [])
