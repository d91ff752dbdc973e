"""What the tables say: queries over the Parquet segments, which a writer may be adding to meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from warpfleet.core.combo import ConnectionOutcome, Phase, Reason, Transport
from warpfleet.core.errors import InputError
from warpfleet.telemetry.columns import SCHEMAS, TableName
from warpfleet.telemetry.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Cell:
    """One ordered pair. The outcome, plugin and transport are the most frequent ones over its repeats."""

    initiator: str
    responder: str
    tries: int
    connected: int
    outcome: ConnectionOutcome
    plugin: str | None
    transport: Transport | None
    connect_ms: float | None  # median


@dataclass(frozen=True, slots=True)
class Share:
    """What one plugin won in one phase. Times are in ms."""

    phase: Phase
    plugin: str
    count: int
    share: float  # of the connections that were tried to the end, 0 to 1
    connect_ms_median: float | None
    connect_ms_p95: float | None
    first_byte_ms_median: float | None
    first_byte_ms_p95: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Connections that ended without a pipe, for one reason. `example` is the id of the latest."""

    outcome: ConnectionOutcome
    reason: Reason | None
    count: int
    example: str


# A pair that was interrupted and then tried again has two rows: the last try of each repeat is the one that counts.
_LAST_TRIES = """
CREATE VIEW tries AS
SELECT * FROM connections
QUALIFY row_number() OVER (
    PARTITION BY initiator, responder, repeat
    ORDER BY outcome IN ('direct', 'relayed', 'failed') DESC, started_at DESC, connection_id) = 1
"""

_MATRIX = """
SELECT initiator, responder, count(*), count(*) FILTER (outcome IN ('direct', 'relayed')),
    first(outcome ORDER BY n_outcome DESC, outcome), first(plugin ORDER BY n_plugin DESC, plugin),
    first(transport ORDER BY n_plugin DESC, plugin, transport), median(connect_ms)
FROM (SELECT *, count(*) OVER (PARTITION BY initiator, responder, outcome) AS n_outcome,
    CASE WHEN plugin IS NULL THEN 0 ELSE count(*) OVER (PARTITION BY initiator, responder, plugin, transport) END
    AS n_plugin FROM tries)
GROUP BY initiator, responder ORDER BY initiator, responder
"""

_SUMMARY = """
SELECT phase, plugin, count(*), count(*) / (SELECT count(*) FROM tries WHERE outcome <> 'cancelled'),
    median(connect_ms), quantile_cont(connect_ms, 0.95), median(first_byte_ms), quantile_cont(first_byte_ms, 0.95)
FROM tries WHERE outcome IN ('direct', 'relayed')
GROUP BY phase, plugin
ORDER BY list_position(['direct', 'punch', 'spray', 'relay'], phase), count(*) DESC, plugin
"""

_FAILURES = """
SELECT outcome, reason, count(*), arg_max(connection_id, started_at)
FROM tries WHERE outcome NOT IN ('direct', 'relayed')
GROUP BY outcome, reason ORDER BY count(*) DESC, outcome, reason
"""

_OUTCOMES = "SELECT outcome, count(*) FROM tries GROUP BY outcome"

_COMPLETED = """
SELECT DISTINCT initiator, responder, repeat FROM connections WHERE outcome IN ('direct', 'relayed', 'failed')
"""


def matrix(database: DuckDBPyConnection) -> list[Cell]:
    """Every ordered pair that has a connection."""
    return [
        Cell(a, b, tries, connected, ConnectionOutcome(outcome), plugin, transport and Transport(transport), ms)
        for a, b, tries, connected, outcome, plugin, transport, ms in database.execute(_MATRIX).fetchall()
    ]


def summary(database: DuckDBPyConnection) -> list[Share]:
    """What won, by phase and plugin, in the order of the phases."""
    return [Share(Phase(phase), *rest) for phase, *rest in database.execute(_SUMMARY).fetchall()]


def failures(database: DuckDBPyConnection) -> list[Failure]:
    """Connections without a pipe by reason, the most frequent first."""
    rows = database.execute(_FAILURES).fetchall()
    return [Failure(ConnectionOutcome(outcome), reason and Reason(reason), *rest) for outcome, reason, *rest in rows]


def outcomes(database: DuckDBPyConnection) -> dict[ConnectionOutcome, int]:
    """How many connections ended in each way, the last try of each pair and repeat counted."""
    counts = dict(database.execute(_OUTCOMES).fetchall())
    return {outcome: counts.get(outcome.value, 0) for outcome in ConnectionOutcome}


def completed_pairs(directory: Path) -> set[tuple[str, str, int]]:
    """(initiator, responder, repeat) of what need not be tried again: it ended in direct, relayed or failed."""
    with tables(directory) as database:
        return set(database.execute(_COMPLETED).fetchall())


@contextmanager
def tables(directory: Path) -> Iterator[DuckDBPyConnection]:
    """An in-memory database with the views connections, attempts, nat_observations and tries.

    A column of today that an older version did not write is null. InputError where the directory holds no sweep, or
    files that are no tables of ours.
    """
    Sweep.read(directory)
    with duckdb.connect(":memory:") as database:
        try:
            for table in TableName:
                files = database.read_parquet(str(directory / table / "*.parquet"), union_by_name=True)
                files.create_view(f"{table}_files")
                database.register(f"{table}_columns", SCHEMAS[table].empty_table())
                database.execute(f"CREATE VIEW {table} AS FROM {table}_files UNION ALL BY NAME FROM {table}_columns")
            database.execute(_LAST_TRIES)
            yield database
        except duckdb.Error as error:
            message = str(error).splitlines()[0]
            raise InputError(f"{directory}: its tables cannot be read: {message}") from None
