"""An append-only log of record batches. What `append` has returned from survives a kill of the process."""

import os
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from struct import Struct

import pyarrow as pa

from warpfleet.core.errors import MissingError
from warpfleet.telemetry.columns import SCHEMAS, STARTED_SCHEMA, TableName

_HEADER = Struct("<BII")  # kind, payload bytes, CRC-32 of kind and payload


class RecordKind(IntEnum):
    """What a record of the log holds. The numbers are on disk."""

    STARTED = 0
    CONNECTIONS = 1
    ATTEMPTS = 2
    NAT_OBSERVATIONS = 3

    @property
    def schema(self) -> pa.Schema:
        """The columns of the record's batch."""
        return STARTED_SCHEMA if self is RecordKind.STARTED else SCHEMAS[self.table]

    @property
    def table(self) -> TableName:
        """The table that the record's rows go to. A start goes to none: its end does."""
        return TableName[self.name]


class Log:
    """One log file, open for appending. Each record is one `write`, so that at most the last one is ever torn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.size_bytes = 0
        self._descriptor = os.open(path, flags, 0o644)

    def append(self, kind: RecordKind, batch: pa.RecordBatch) -> None:
        """Write one record. MissingError where the disk does not take it; the log then is as it was before."""
        payload = batch.serialize().to_pybytes()
        record = _HEADER.pack(kind, len(payload), _checksum(kind, payload)) + payload
        try:
            written = os.write(self._descriptor, record)
            if written < len(record):
                raise OSError(f"only {written} of {len(record)} bytes were taken: is the disk full?")
        except OSError as error:
            os.ftruncate(self._descriptor, self.size_bytes)
            raise MissingError(f"{self.path}: cannot be written: {error.strerror or error}; free some space") from None
        self.size_bytes += len(record)

    def close(self) -> None:
        """Bring the log to the disk and close it."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def read_log(path: Path) -> Iterator[tuple[RecordKind, pa.RecordBatch]]:
    """The records of a log up to its end, or up to the record that was torn when its writer died."""
    data = path.read_bytes()
    offset = 0
    while offset + _HEADER.size <= len(data):
        kind, size_bytes, checksum = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        payload = data[offset : offset + size_bytes]
        if len(payload) < size_bytes or _checksum(kind, payload) != checksum:
            return
        offset += size_bytes
        record_kind = RecordKind(kind)
        yield record_kind, _read_batch(payload, record_kind.schema)


def _read_batch(payload: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """A batch as the schema has it. New columns come last, and a batch of an older version lacks them."""
    for count in range(len(schema), 0, -1):
        try:
            batch = pa.ipc.read_record_batch(pa.py_buffer(payload), pa.schema(list(schema)[:count]))
        except (pa.ArrowInvalid, OSError):
            continue
        missing = [pa.nulls(batch.num_rows, field.type) for field in list(schema)[count:]]
        return pa.record_batch([*batch.columns, *missing], schema=schema)
    raise pa.ArrowInvalid("the record has none of the columns")


def _checksum(kind: int, payload: bytes) -> int:
    return zlib.crc32(payload, kind)
