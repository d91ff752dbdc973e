"""The rows of the telemetry tables, and their columns: what users' scripts read."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from operator import attrgetter

import pyarrow as pa

from warpfleet.core.combo import (
    AttemptOutcome,
    ConnectionOutcome,
    Phase,
    Policy,
    Reason,
    RouteType,
    Side,
    Transport,
)
from warpfleet.core.nat import Filtering, Mapping, PortAssignment

SCHEMA_VERSION = 1


class TableName(StrEnum):
    """The tables, by the name of their folder."""

    CONNECTIONS = "connections"
    ATTEMPTS = "attempts"
    NAT_OBSERVATIONS = "nat_observations"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRow:
    """A connection that has begun: the first columns of its ConnectionRow. `started_at` is aware."""

    sweep_id: str
    connection_id: str
    initiator: str
    responder: str
    repeat: int
    policy: Policy
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRow(StartedRow):
    """How one connection ended. Times in ms from the start of `auto_connect`; None where it did not happen.

    `reason` is the machine-readable cause of an end that is not a pipe, `error` the sentence for people.
    """

    outcome: ConnectionOutcome
    plugin: str | None = None
    phase: Phase | None = None
    transport: Transport | None = None
    af: int | None = None
    route_type: RouteType | None = None
    local_endpoint: str | None = None
    remote_endpoint: str | None = None
    connect_ms: float | None = None
    first_byte_ms: float | None = None
    rtt_ms: float | None = None
    upgraded_ms: float | None = None
    initiator_nat: str | None = None
    responder_nat: str | None = None
    error: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """How one attempt ended. `started_ms` and `ended_ms` count from the connection's start; None if skipped."""

    sweep_id: str
    connection_id: str
    attempt_id: str
    plugin: str
    phase: Phase | None  # None for an auxiliary plugin
    transport: Transport | None = None
    af: int
    route_type: RouteType
    side: Side
    started_ms: float | None = None
    ended_ms: float | None = None
    outcome: AttemptOutcome
    reason: Reason | None = None
    sockets: int | None = None
    packets_sent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NatObservationRow:
    """What was seen of the NATs before one node. `source` says how, `confidence` is 0 to 1."""

    sweep_id: str
    node: str
    observed_at: datetime
    external_ip: str | None = None
    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    port_assignment: PortAssignment = PortAssignment.UNKNOWN
    port_delta: int | None = None
    hairpin: bool | None = None
    lifetime_s: float | None = None
    source: str
    confidence: float


Row = StartedRow | AttemptRow | NatObservationRow

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
