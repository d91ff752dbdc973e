"""Finds one connection in the tables, and everything recorded about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Phase, Policy, Reason, RouteType, Side, Transport
from warpfleet.core.errors import InputError
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.telemetry.analysis import tables
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, NatObservationRow

MAX_REPEAT_DIGITS = 10  # what a BIGINT holds for certain
MAX_NEAR = 3  # matches that an error names: more would not fit a line

_BY_ID = "SELECT connection_id FROM connections WHERE starts_with(connection_id, ?) ORDER BY connection_id LIMIT 10"
_BY_PAIR = """
SELECT connection_id FROM connections WHERE initiator = ? AND responder = ? AND (?::BIGINT IS NULL OR repeat = ?)
ORDER BY started_at DESC, connection_id LIMIT 1
"""
_NAMES = "SELECT DISTINCT connection_id, initiator || ':' || responder FROM connections LIMIT 5000"
_CONNECTION = "SELECT * FROM connections WHERE connection_id = ?"
_ATTEMPTS = """
SELECT DISTINCT * FROM attempts WHERE connection_id = ?
ORDER BY started_ms NULLS LAST, ended_ms NULLS LAST, plugin, side, attempt_id
"""
_OBSERVATION = """
SELECT * FROM nat_observations WHERE sweep_id = ? AND node = ? ORDER BY af = ? DESC, observed_at DESC LIMIT 1
"""

_ENUMS: dict[str, type[Any]] = {
    "policy": Policy,
    "phase": Phase,
    "transport": Transport,
    "route_type": RouteType,
    "side": Side,
    "reason": Reason,
    "mapping": Mapping,
    "filtering": Filtering,
    "port_assignment": PortAssignment,
}


@dataclass(frozen=True, slots=True)
class Story:
    """What the tables say about one connection. The attempts are in the order of their start, skipped ones last."""

    connection: ConnectionRow
    attempts: tuple[AttemptRow, ...]
    initiator_nat: NatObservationRow | None
    responder_nat: NatObservationRow | None


def find(directory: Path, connection: str) -> Story:
    """By id, by the unique beginning of one, by `alice:bob` (the latest) or `alice:bob:repeat`. InputError if none."""
    with tables(directory) as database:
        return story(database, _find_id(database, directory, connection))


def story(database: DuckDBPyConnection, connection_id: str) -> Story:
    """By its whole id, which the tables must have."""
    row = ConnectionRow(**_rows(database, _CONNECTION, [connection_id], ConnectionOutcome)[0])
    attempts = [AttemptRow(**one) for one in _rows(database, _ATTEMPTS, [connection_id], AttemptOutcome)]
    nats = [
        next(
            (NatObservationRow(**one) for one in _rows(database, _OBSERVATION, [row.sweep_id, node, row.af or 4])),
            None,
        )
        for node in (row.initiator, row.responder)
    ]
    return Story(row, tuple(attempts), nats[0], nats[1])


def _find_id(database: DuckDBPyConnection, directory: Path, wanted: str) -> str:
    initiator, _, rest = wanted.partition(":")
    responder, _, repeat = rest.partition(":")
    if responder and (not repeat or (repeat.isdecimal() and len(repeat) < MAX_REPEAT_DIGITS)):
        number = int(repeat) if repeat else None
        found = database.execute(_BY_PAIR, [initiator, responder, number, number]).fetchall()
    else:
        found = database.execute(_BY_ID, [wanted]).fetchall() if wanted else []
    ids = [str(row[0]) for row in found]
    if wanted in ids or len(ids) == 1:
        return wanted if wanted in ids else ids[0]
    if ids:
        raise InputError(f"{directory}: '{wanted}' begins {_listed(ids)}; give more of the id")
    ids_and_pairs = database.execute(_NAMES).fetchall()
    names = {pair if responder else connection_id for connection_id, pair in ids_and_pairs}
    near = get_close_matches(wanted, names, n=MAX_NEAR) or sorted({pair for _, pair in ids_and_pairs})
    raise InputError(f"{directory}: no connection '{wanted}'; there are for example {_listed(near) or 'none at all'}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NEAR]) + (", ..." if len(names) > MAX_NEAR else "")


def _rows(
    database: DuckDBPyConnection, query: str, parameters: Sequence[object], outcome: type[Any] | None = None
) -> list[dict[str, Any]]:
    found = database.sql(query, params=list(parameters)).to_arrow_table().to_pylist()
    enums = _ENUMS | ({"outcome": outcome} if outcome else {})
    return [
        {name: enums[name](value) if name in enums and value is not None else value for name, value in row.items()}
        for row in found
    ]
