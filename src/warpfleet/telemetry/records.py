"""The rows of the telemetry tables: what users' scripts read. Their fields are the columns, in their order."""

from dataclasses import dataclass
from datetime import datetime

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
    """How one attempt ended. `started_ms` and `ended_ms` count from the connection's start; None if skipped.

    `advice` is the sentence for people where the observatory's knowledge ruled the attempt out, or moved it.
    """

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
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NatObservationRow:
    """What was seen of the NATs before one node. `source` says how, `confidence` is 0 to 1; `packets_sent` is what it
    cost, in datagrams and TCP segments; `port_first` and `port_last` bound the block that random ports are drawn from,
    as far as it was seen (None also where they are drawn from all)."""

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
    af: int | None = None
    packets_sent: int | None = None
    port_first: int | None = None
    port_last: int | None = None


Row = StartedRow | AttemptRow | NatObservationRow
