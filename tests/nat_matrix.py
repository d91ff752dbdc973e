"""The NAT x NAT table on the kernel: `python tests/nat_matrix.py --repeat 20 --out DIR`.

Builds the topology `matrix` twice, as it is and as it is on a bad day (`nat_table.adverse`), sweeps every row of the
table in each, prints what came of it against what the table asks for, and tells the story of one connection of each row
that misses it. Exit status 1 where one does. All namespaces share one clock: what two that differ do is shown by
the simulated laboratory (`lab/sim/test_nat_table.py`), and of punches by `lab/test_tcp_punch_on_kernel.py`.
"""

import argparse
import asyncio
import os
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nat_table import (
    MATRIX,
    PATH_RTT_MS,
    TABLE,
    TCP_TABLE,
    UDP_TABLE,
    Row,
    Way,
    adverse,
    bad_day_bound_ms,
    bound_ms,
    too_few,
)
from warpfleet.cluster.control import ClusterClient, SweepRequest
from warpfleet.cluster.session import own_cluster
from warpfleet.cluster.sweep_plan import SweepPlan
from warpfleet.configs.fleet import Fleet
from warpfleet.configs.loader import load
from warpfleet.configs.topology import Topology
from warpfleet.core.combo import ConnectionOutcome, Policy
from warpfleet.core.plan import Pin
from warpfleet.lab import rootless
from warpfleet.lab.laboratory import laboratory
from warpfleet.lab.sim.world import World
from warpfleet.telemetry.analysis import tables
from warpfleet.telemetry.explain import explain

Bound = Callable[[Way, str], float]
ROWS = (*TABLE, *UDP_TABLE, *TCP_TABLE)
# Connections at a time: with more, on two cores, the times are those of the processor. On a bad day each mostly waits.
CONCURRENCY, CONCURRENCY_ADVERSE = 6, 12
SEED = 1

_TRIES = """
SELECT initiator, responder, connection_id, outcome, plugin, connect_ms,
    (SELECT count(*) FROM attempts a WHERE a.connection_id = t.connection_id
        AND phase IN ('punch', 'spray') AND a.outcome <> 'skipped'),
    (SELECT sum(packets_sent) FROM attempts a WHERE a.connection_id = t.connection_id AND a.plugin = 'random_probe')
FROM tries t
"""


@dataclass(frozen=True, slots=True)
class Try:
    """One connection: `punches` is how many of its attempts punched or sprayed, `guesses` random_probe's packets."""

    connection_id: str
    outcome: ConnectionOutcome
    plugin: str | None
    connect_ms: float | None
    punches: int
    guesses: int | None


@dataclass(frozen=True, slots=True)
class Tally:
    """A row of the table and its connections, which `directory` has the telemetry of."""

    row: Row
    directory: Path
    tries: tuple[Try, ...]

    @property
    def as_expected(self) -> list[Try]:
        return [one for one in self.tries if one.outcome is self.row.way.outcome]

    @property
    def plugin(self) -> str | None:
        """Which won most."""
        return Counter(one.plugin for one in self.tries).most_common(1)[0][0]

    @property
    def times_ms(self) -> list[float]:
        return [one.connect_ms for one in self.tries if one.connect_ms is not None]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms) if self.times_ms else float("inf")


async def sweep(
    cluster: ClusterClient, fleet: Fleet, out: Path, rows: Sequence[Row], *, repeat: int, concurrency: int
) -> list[Tally]:
    """Sweep rows that pin the same."""
    pairs = ",".join(f"{row.initiator}:{row.responder}" for row in rows)
    plan = SweepPlan(pairs=pairs, repeat=repeat, policy=Policy.STAGGERED, pin=rows[0].pin, seed=SEED)
    await cluster.ask(SweepRequest(fleet=fleet, plan=plan, directory=out, resume=False, concurrency=concurrency))
    tries = defaultdict(list)
    with tables(out) as database:
        for initiator, responder, connection_id, outcome, *rest in database.execute(_TRIES).fetchall():
            tries[initiator, responder].append(Try(connection_id, ConnectionOutcome(outcome), *rest))
    return [Tally(row, out, tuple(tries[row.initiator, row.responder])) for row in rows]


async def sweep_all(fleet: Fleet, out: Path, *, repeat: int, concurrency: int) -> list[Tally]:
    """Sweep the whole table, one sweep for all rows that pin the same."""
    by_pin: defaultdict[Pin, list[Row]] = defaultdict(list)
    for row in ROWS:
        by_pin[row.pin].append(row)
    tallies = []
    async with own_cluster(fleet, say) as cluster:
        for number, rows in enumerate(by_pin.values()):
            say(f"{len(rows)} pairs, {repeat} times each: {rows[0].pin}")
            directory = out / f"sweep-{number}"
            at_once = min(concurrency, len(rows))  # else the connections of one pair wait for each other
            tallies += await sweep(cluster, fleet, directory, rows, repeat=repeat, concurrency=at_once)
    return tallies


def on_kernel(topology: Topology, out: Path, *, repeat: int, concurrency: int) -> list[Tally]:
    """What the kernel makes of the table in this topology."""
    with laboratory(topology, name="warpfleet-matrix", progress=say, take_over=True) as lab:
        fleet = load(lab.fleet_path, Fleet)
        return asyncio.run(sweep_all(fleet, out, repeat=repeat, concurrency=concurrency))


def simulated() -> dict[Row, ConnectionOutcome]:
    """What the simulated laboratory makes of it."""
    with World(MATRIX, seed=SEED) as world:
        return {
            row: world.connect(
                row.initiator, row.responder, only=row.pin.plugin, af=row.pin.af, route=row.pin.route
            ).outcome
            for row in ROWS
        }


def show(tallies: Sequence[Tally], ideal: Sequence[Tally], bound_of: Bound) -> None:
    """Print the table; times in round trips of the path, against the day's bound and those of `ideal`."""
    print(f"{'pair':55} {'way':14} {'as expected':>12}  {'median':>6} {'max':>6} {'bound':>6} {'ratio':>5}  won by")
    for tally, other in zip(tallies, ideal, strict=True):
        count = f"{len(tally.as_expected)}/{len(tally.tries)}"
        times = [tally.median_ms, max(tally.times_ms, default=float("inf"))]
        bound = bound_of(tally.row.way, tally.plugin) if tally.plugin else float("inf")
        trips = " ".join(f"{ms / PATH_RTT_MS:6.1f}" for ms in (*times, bound))
        ratio = tally.median_ms / other.median_ms
        won = ", ".join(f"{plugin} {n}" for plugin, n in Counter(one.plugin for one in tally.tries).most_common())
        print(f"{tally.row!s:55} {tally.row.way.name:14} {count:>12}  {trips} {ratio:5.2f}  {won}")
    guessed = [tally for tally in tallies if tally.row.way is Way.GUESS]
    won = [one for tally in guessed for one in tally.as_expected]
    packets = [one.guesses for tally in guessed for one in tally.tries if one.guesses is not None]
    if won:
        median = statistics.median(packets)
        print(f"random_probe: {sum(packets) / len(won):.0f} packets per success, both ends; {median:.0f} in the median")
    slower = [tally.median_ms / other.median_ms for tally, other in zip(tallies, ideal, strict=True)]
    print(f"median of connect_ms against an ideal day's, over all pairs: x {statistics.median(slower):.2f}\n")


def missed(tallies: Sequence[Tally]) -> Iterator[tuple[Tally, str]]:
    """The rows that are not what the table asks for, whatever the day, and how: each by itself, where chance does not
    excuse it, and all that are asked the same together, where that may be less than every time."""
    pools: defaultdict[tuple[Way, float, str | None], list[Tally]] = defaultdict(list)
    for tally in tallies:
        pools[tally.row.way, tally.row.share, tally.row.pin.plugin].append(tally)
        count, n = len(tally.as_expected), len(tally.tries)
        if too_few(count, n, tally.row.share):
            yield tally, f"{count} of {n}, {tally.row.share:.0%} are asked for"
    for (way, share, _), pool in pools.items():
        count, n = sum(len(tally.as_expected) for tally in pool), sum(len(tally.tries) for tally in pool)
        if share < 1 and count < share * n:
            short = [tally for tally in pool if len(tally.as_expected) < len(tally.tries)]
            yield from ((tally, f"{count} of {n} by {way.name} in all, {share:.0%} are asked for") for tally in short)
    for tally in tallies:
        if tally.row.way is Way.RELAY and any(one.punches for one in tally.tries):
            yield tally, "punched or sprayed although nothing can come of it"


def late(tallies: Sequence[Tally], bound_of: Bound) -> Iterator[tuple[Tally, str]]:
    """The rows that take longer in the median than the day allows what wins most."""
    for tally in tallies:
        if tally.plugin and tally.median_ms > (bound := bound_of(tally.row.way, tally.plugin)):
            yield tally, f"{tally.median_ms:.0f} ms in the median, {bound:.0f} are allowed"


def missed_on_a_good_day(tallies: Sequence[Tally]) -> Iterator[tuple[Tally, str]]:
    """The rows that came about in another way than the table says, or otherwise than in the simulator."""
    found = simulated()
    for tally in tallies:
        if tally.plugin not in tally.row.way.plugins:
            yield tally, f"won by {tally.plugin}, not {' or '.join(tally.row.way.plugins)}"
        if Counter(one.outcome for one in tally.tries).most_common(1)[0][0] is not found[tally.row]:
            yield tally, f"{found[tally.row]} in the simulated laboratory"


def tell(misses: Sequence[tuple[Tally, str]]) -> None:
    """Say what was missed, with the story of the connection that shows it best."""
    for tally, complaint in misses:
        worst = max(tally.tries, key=lambda one: (one.outcome is not tally.row.way.outcome, one.connect_ms or 0.0))
        print(f"MISSED {tally.row}: {complaint}\n")
        print(explain(tally.directory, worst.connection_id))


def say(text: str) -> None:
    """Progress goes where results do not."""
    print(f"matrix: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="The NAT x NAT table on the kernel.")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_STATE_HOME"] = str(out / "state")  # what is known of NATs begins with nothing
    rootless.ensure_privilege()
    ideal = on_kernel(MATRIX, out / "ideal", repeat=given.repeat, concurrency=CONCURRENCY)
    bad = on_kernel(adverse(MATRIX), out / "adverse", repeat=given.repeat, concurrency=CONCURRENCY_ADVERSE)
    misses = []
    for day, tallies, bound_of, others in (
        ("ideal", ideal, bound_ms, missed_on_a_good_day(ideal)),
        ("adverse: 5 % loss and 30 ms jitter on each path, signals 500 ms late", bad, bad_day_bound_ms, ()),
    ):
        print(f"\n{day}; times in path round trips of {PATH_RTT_MS:.0f} ms\n")
        show(tallies, ideal, bound_of)
        complaints = [*missed(tallies), *late(tallies, bound_of), *others]
        tell(complaints)
        misses += complaints
    print(f"{len(ROWS)} pairs on each day: " + (f"{len(misses)} requirements missed" if misses else "all as required"))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
