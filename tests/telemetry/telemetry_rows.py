"""Rows to write in tests."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

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
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, StartedRow
from warpfleet.telemetry.sweep import Sweep

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def sweep(**changes: object) -> Sweep:
    plan = {
        "sweep_id": "s1",
        "fleet": {"nodes": [{"name": "alice"}]},
        "policy": Policy.STRICT,
        "seed": 7,
        "arguments": {"pairs": "all", "concurrency": 4},
        "started_at": NOW,
    }
    return Sweep.model_validate(plan | changes)


def started(connection_id: str, initiator: str = "alice", responder: str = "bob", repeat: int = 0) -> StartedRow:
    return StartedRow(
        sweep_id="s1",
        connection_id=connection_id,
        initiator=initiator,
        responder=responder,
        repeat=repeat,
        policy=Policy.STRICT,
        started_at=NOW + timedelta(seconds=repeat),
    )


def direct(start: StartedRow, connect_ms: float = 100.0) -> ConnectionRow:
    return ConnectionRow(
        **asdict(start),
        outcome=ConnectionOutcome.DIRECT,
        plugin="tcp_punch",
        phase=Phase.PUNCH,
        transport=Transport.TCP,
        af=4,
        route_type=RouteType.EXT,
        local_endpoint="192.0.2.1:5",
        remote_endpoint="192.0.2.2:6",
        connect_ms=connect_ms,
        first_byte_ms=connect_ms + 10,
        initiator_nat="port_restricted",
    )


def relayed(start: StartedRow) -> ConnectionRow:
    return ConnectionRow(
        **asdict(start),
        outcome=ConnectionOutcome.RELAYED,
        plugin="turn",
        phase=Phase.RELAY,
        transport=Transport.UDP,
        af=4,
        route_type=RouteType.EXT,
        connect_ms=300.0,
    )


def failed(start: StartedRow, reason: Reason = Reason.ALL_FAILED) -> ConnectionRow:
    return ConnectionRow(**asdict(start), outcome=ConnectionOutcome.FAILED, reason=reason)


def attempt(connection_id: str, attempt_id: str, plugin: str, outcome: AttemptOutcome, **changes: object) -> AttemptRow:
    values: dict[str, object] = {
        "phase": Phase.PUNCH,
        "af": 4,
        "route_type": RouteType.EXT,
        "side": Side.INITIATOR,
    }
    return AttemptRow(
        sweep_id="s1",
        connection_id=connection_id,
        attempt_id=attempt_id,
        plugin=plugin,
        outcome=outcome,
        **(values | changes),  # type: ignore[arg-type]
    )
