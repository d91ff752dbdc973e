"""The columns of the telemetry tables as Arrow knows them."""

from collections.abc import Iterable
from dataclasses import fields
from enum import StrEnum
from operator import attrgetter

import pyarrow as pa

from warpfleet.telemetry.records import AttemptRow, ConnectionRow, NatObservationRow, Row, StartedRow


class TableName(StrEnum):
    """The tables, by the name of their folder."""

    CONNECTIONS = "connections"
    ATTEMPTS = "attempts"
    NAT_OBSERVATIONS = "nat_observations"


_TIME = pa.timestamp("us", tz="UTC")
_TYPES = {
    "repeat": pa.int64(),
    "started_at": _TIME,
    "observed_at": _TIME,
    "af": pa.int8(),
    "connect_ms": pa.float64(),
    "first_byte_ms": pa.float64(),
    "rtt_ms": pa.float64(),
    "upgraded_ms": pa.float64(),
    "started_ms": pa.float64(),
    "ended_ms": pa.float64(),
    "lifetime_s": pa.float64(),
    "confidence": pa.float64(),
    "sockets": pa.int64(),
    "packets_sent": pa.int64(),
    "port_delta": pa.int64(),
    "port_first": pa.int64(),
    "port_last": pa.int64(),
    "hairpin": pa.bool_(),
}


def _schema(row_type: type[Row]) -> pa.Schema:
    """One column a field, in the order of the fields; text where `_TYPES` does not say otherwise."""
    return pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in fields(row_type)])


STARTED_SCHEMA = _schema(StartedRow)
SCHEMAS = {
    TableName.CONNECTIONS: _schema(ConnectionRow),
    TableName.ATTEMPTS: _schema(AttemptRow),
    TableName.NAT_OBSERVATIONS: _schema(NatObservationRow),
}


def to_batch(rows: Iterable[Row], schema: pa.Schema) -> pa.RecordBatch:
    """The rows as a record batch. pyarrow.ArrowInvalid or ArrowTypeError where a value does not fit its column."""
    values = list(map(attrgetter(*schema.names), rows))
    columns = zip(*values, strict=True) if values else ([] for _ in schema.names)
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
