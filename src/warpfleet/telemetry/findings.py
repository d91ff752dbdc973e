"""What a sweep found: every number of its report, from one state of its tables."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Reason
from warpfleet.telemetry.analysis import Cell, Failure, Share, failures, matrix, outcomes, summary, tables
from warpfleet.telemetry.explain import story_values
from warpfleet.telemetry.lookup import Story, story
from warpfleet.telemetry.statistics import Proportion, proportion, supports
from warpfleet.telemetry.sweep import Sweep

NOT_OBSERVED = "not observed"  # a connection that ended before its nodes' NATs were known
MAX_CURVE_POINTS = 400  # more than a figure can show
MAX_SLOWEST = 10


@dataclass(frozen=True, slots=True)
class NatPair:
    """The connections from behind one NAT behaviour to behind another; cancelled ones are not counted."""

    initiator_nat: str
    responder_nat: str
    connected: Proportion
    direct: Proportion
    relayed: int
    node_pairs: int  # ordered pairs of nodes that the connections are between
    connect_ms: float | None  # median of those that connected


@dataclass(frozen=True, slots=True)
class PluginSuccess:
    """How one plugin's attempts ended on the initiator's side.

    `worked` counts those that gave a proved pipe, whether it was chosen or not, of those that were not cut short;
    `cancelled` were.
    """

    plugin: str
    worked: Proportion
    won: int
    cancelled: int


@dataclass(frozen=True, slots=True)
class Times:
    """A sample of times in ms. `curve` has its values in order, or quantiles at equal steps where it has too many.

    Its k-th of m points, from 1, has the share k / m of the values at or below it.
    """

    n: int
    least: float | None
    median: float | None
    p95: float | None  # None, too, where n does not support it
    greatest: float | None
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PluginTimes:
    """How long the connections took that a plugin won (None: all of them), from the start of `auto_connect`."""

    plugin: str | None
    connect: Times
    first_byte: Times


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """Attempts on the initiator's side that gave no pipe though nothing cut them short, for one reason."""

    plugin: str
    outcome: AttemptOutcome
    reason: Reason | None
    count: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What the connections took. `attempts` were started, on either side. Packets are None where none were counted."""

    attempts: int
    packets: int | None  # those of attempts and of probes
    attempt_packets: int | None
    probe_packets: int | None  # to find out the NATs
    superseded: int  # connections that were interrupted and tried again: they are in no other number


@dataclass(frozen=True, slots=True)
class Findings:
    """A whole sweep, or what there is of it so far. Cancelled connections count in `outcomes` alone."""

    sweep: Sweep
    outcomes: dict[ConnectionOutcome, int]
    connected: Proportion
    direct: Proportion
    relayed: Proportion
    nat_pairs: list[NatPair]
    node_pairs: list[Cell]
    shares: list[Share]
    plugins: list[PluginSuccess]
    times: list[PluginTimes]  # all, then by plugin
    failures: list[Failure]
    attempt_failures: list[AttemptFailure]
    slowest: list[Story]
    cost: Cost


# The temporary tables hide the views of the same name: a writer may add files between two queries, but not to these.
_SNAPSHOT = """
CREATE TEMP TABLE tries AS FROM main.tries;
CREATE TEMP TABLE runs AS
SELECT DISTINCT connection_id, attempt_id, plugin, phase, side, outcome, reason, packets_sent
FROM attempts SEMI JOIN tries USING (connection_id) WHERE started_ms IS NOT NULL
"""

_NAT_PAIRS = """
SELECT coalesce(initiator_nat, $unknown), coalesce(responder_nat, $unknown), count(*),
    count(*) FILTER (outcome = 'direct'), count(*) FILTER (outcome = 'relayed'), count(DISTINCT (initiator, responder)),
    median(connect_ms) FILTER (outcome IN ('direct', 'relayed'))
FROM tries WHERE outcome <> 'cancelled' GROUP BY ALL
"""

# An attempt without a phase refreshes an address record, and gives no pipe.
_PLUGINS = """
SELECT plugin, count(*) FILTER (outcome IN ('won', 'lost')), count(*) FILTER (outcome IN ('failed', 'timeout')),
    count(*) FILTER (outcome = 'won'), count(*) FILTER (outcome = 'cancelled')
FROM runs WHERE side = 'initiator' AND phase IS NOT NULL GROUP BY plugin ORDER BY plugin
"""

_ATTEMPT_FAILURES = """
SELECT plugin, outcome, reason, count(*) FROM runs
WHERE side = 'initiator' AND phase IS NOT NULL AND outcome IN ('failed', 'timeout')
GROUP BY ALL ORDER BY count(*) DESC, plugin, outcome, reason
"""

_STEPS = [point / MAX_CURVE_POINTS for point in range(1, MAX_CURVE_POINTS + 1)]
_SAMPLE = """count({0}), min({0}), median({0}), quantile_cont({0}, 0.95), max({0}),
    CASE WHEN count({0}) <= {1} THEN list_sort(list({0}) FILTER ({0} IS NOT NULL)) ELSE quantile_disc({0}, {2}) END"""
_TIMES = f"""
SELECT plugin, {_SAMPLE.format("connect_ms", MAX_CURVE_POINTS, _STEPS)},
    {_SAMPLE.format("first_byte_ms", MAX_CURVE_POINTS, _STEPS)}
FROM tries WHERE outcome IN ('direct', 'relayed')
GROUP BY GROUPING SETS ((), (plugin)) ORDER BY GROUPING(plugin) DESC, plugin
"""  # noqa: S608

_SLOWEST = """
SELECT connection_id FROM tries WHERE outcome IN ('direct', 'relayed') AND connect_ms IS NOT NULL
ORDER BY connect_ms DESC, connection_id LIMIT ?
"""

# Not every version wrote the packets of a probe.
_COST = """
SELECT (SELECT count(*) FROM runs), (SELECT sum(packets_sent)::BIGINT FROM runs),
    (SELECT sum(packets_sent)::BIGINT
     FROM (FROM nat_observations UNION ALL BY NAME SELECT NULL::BIGINT AS packets_sent WHERE false)),
    (SELECT count(*) FROM connections SEMI JOIN tries USING (initiator, responder, repeat))
    - (SELECT count(*) FROM tries)
"""


def findings(directory: Path) -> Findings:
    """The findings of a directory, which a writer may be adding to. InputError where it holds no sweep."""
    with tables(directory) as database:
        database.execute(_SNAPSHOT)
        counts = outcomes(database)
        direct, relayed = counts[ConnectionOutcome.DIRECT], counts[ConnectionOutcome.RELAYED]
        tried = sum(counts.values()) - counts[ConnectionOutcome.CANCELLED]
        slowest = database.execute(_SLOWEST, [MAX_SLOWEST]).fetchall()
        return Findings(
            sweep=Sweep.read(directory),
            outcomes=counts,
            connected=proportion(direct + relayed, tried),
            direct=proportion(direct, tried),
            relayed=proportion(relayed, tried),
            nat_pairs=_nat_pairs(database),
            node_pairs=matrix(database),
            shares=summary(database),
            plugins=_plugins(database),
            times=_times(database),
            failures=failures(database),
            attempt_failures=_attempt_failures(database),
            slowest=[story(database, connection_id) for (connection_id,) in slowest],
            cost=_cost(database),
        )


def findings_values(found: Findings) -> dict[str, Any]:
    """The findings as JSON-ready values."""
    plain = asdict(replace(found, slowest=[]))
    slowest = [story_values(one) for one in found.slowest]
    return plain | {"sweep": found.sweep.model_dump(mode="json"), "slowest": slowest}


def nat_order(pairs: Sequence[NatPair]) -> list[str]:
    """The NAT behaviours of either end, those first that most of the direct pipes are between."""
    seen: dict[str, list[NatPair]] = {}
    for pair in pairs:
        for nat in {pair.initiator_nat, pair.responder_nat}:
            seen.setdefault(nat, []).append(pair)
    share = {nat: sum(p.direct.count for p in of_nat) / sum(p.direct.n for p in of_nat) for nat, of_nat in seen.items()}
    return sorted(seen, key=lambda nat: (-share[nat], nat))


def _nat_pairs(database: DuckDBPyConnection) -> list[NatPair]:
    """In the order of `nat_order`."""
    rows = database.execute(_NAT_PAIRS, {"unknown": NOT_OBSERVED}).fetchall()
    pairs = [
        NatPair(one, two, proportion(direct + relayed, n), proportion(direct, n), relayed, node_pairs, median_ms)
        for one, two, n, direct, relayed, node_pairs, median_ms in rows
    ]
    place = {nat: number for number, nat in enumerate(nat_order(pairs))}
    return sorted(pairs, key=lambda pair: (place[pair.initiator_nat], place[pair.responder_nat]))


def _plugins(database: DuckDBPyConnection) -> list[PluginSuccess]:
    return [
        PluginSuccess(plugin, proportion(worked, worked + failed), won, cancelled)
        for plugin, worked, failed, won, cancelled in database.execute(_PLUGINS).fetchall()
    ]


def _attempt_failures(database: DuckDBPyConnection) -> list[AttemptFailure]:
    return [
        AttemptFailure(plugin, AttemptOutcome(outcome), reason and Reason(reason), count)
        for plugin, outcome, reason, count in database.execute(_ATTEMPT_FAILURES).fetchall()
    ]


def _times(database: DuckDBPyConnection) -> list[PluginTimes]:
    return [
        PluginTimes(plugin, _sample(values[:6]), _sample(values[6:]))
        for plugin, *values in database.execute(_TIMES).fetchall()
    ]


def _cost(database: DuckDBPyConnection) -> Cost:
    attempts, by_attempts, by_probes, superseded = database.execute(_COST).fetchall()[0]
    counted = [packets for packets in (by_attempts, by_probes) if packets is not None]
    return Cost(attempts, sum(counted) if counted else None, by_attempts, by_probes, superseded)


def _sample(values: Sequence[Any]) -> Times:
    """The columns of `_SAMPLE`."""
    n, least, median, p95, greatest, curve = values
    return Times(n, least, median, p95 if supports(n, 0.95) else None, greatest, tuple(curve or ()))
