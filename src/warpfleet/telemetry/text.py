"""The whole report as text for the terminal."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from warpfleet.telemetry.explain import time_line
from warpfleet.telemetry.facts import cost_facts, sweep_facts
from warpfleet.telemetry.findings import (
    NOT_OBSERVED,
    AttemptFailure,
    Findings,
    NatPair,
    PluginSuccess,
    Times,
    nat_order,
)
from warpfleet.telemetry.lookup import Story
from warpfleet.telemetry.reasons import sentence
from warpfleet.telemetry.report import failures_table, matrix_table, outcomes_line
from warpfleet.telemetry.statistics import Proportion, supports
from warpfleet.telemetry.units import NOTHING, count_text, interval_text, percent_text, time_text

_PROPORTION_HEADINGS = ("of n", "share", "95 % interval")
_FEW = "~"  # before a median of fewer values than it needs


def report(found: Findings) -> RenderableType:
    """Everything that was found."""
    return Group(*_parts(found))


def _parts(found: Findings) -> Iterator[RenderableType]:
    yield _facts(sweep_facts(found.sweep))
    yield outcomes_line(found.outcomes)
    if found.connected.n:
        yield _overall_table(found)
        yield _nat_table(found.nat_pairs)
        yield matrix_table(found.node_pairs)
        yield _nat_success_table(found.nat_pairs)
    if found.plugins:
        yield _plugin_table(found.plugins)
    if found.connected.count:
        yield _times_table("time to connect", [(one.plugin, one.connect) for one in found.times])
        yield _times_table("time to the first byte echoed back", [(one.plugin, one.first_byte) for one in found.times])
    if found.failures:
        yield failures_table(found.failures)
    if found.attempt_failures:
        yield _attempt_failures_table(found.attempt_failures)
    if found.slowest:
        yield from _slowest(found.slowest)
    yield _facts(cost_facts(found.cost, sum(found.outcomes.values())))


def _facts(facts: Sequence[tuple[str, str]]) -> Text:
    return Text("".join(f"{name}: {value}\n" for name, value in facts))


def _proportion(one: Proportion) -> tuple[str, str, str]:
    return f"{one.count:,} of {one.n:,}", percent_text(one.share), interval_text(one)


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _overall_table(found: Findings) -> Table:
    table = _table("all connections that were not cancelled", ["outcome"], _PROPORTION_HEADINGS)
    for name, one in (("connected", found.connected), ("direct", found.direct), ("relayed", found.relayed)):
        table.add_row(name, *_proportion(one))
    return table


def _nat_table(pairs: Sequence[NatPair]) -> RenderableType:
    """Initiators' NATs down, responders' across."""
    nats = nat_order(pairs)
    by_nats = {(pair.initiator_nat, pair.responder_nat): pair for pair in pairs}
    title = "by NAT behaviour: initiator (down) x responder (across)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("#", no_wrap=True)
    for number in range(1, len(nats) + 1):
        table.add_column(str(number), overflow="fold")
    for number, nat in enumerate(nats, 1):
        table.add_row(f"{number} {escape(nat)}", *(_nat_cell(by_nats.get((nat, other))) for other in nats))
    legend = (
        "connected/n, share of n that is direct, median time to connect "
        f"({_FEW} = of too few values to estimate one); green: direct, yellow: relayed, red: no pipe, for the most part"
    )
    return Group(table, Text(legend, style="dim"))


def _nat_cell(pair: NatPair | None) -> Text:
    if pair is None:
        return Text("")
    failed = pair.connected.n - pair.connected.count
    styles = {"red": failed, "yellow": pair.relayed, "green": pair.direct.count}
    lines = f"{pair.connected.count}/{pair.connected.n}", f"{percent_text(pair.direct.share)} dir", _nat_median(pair)
    return Text("\n".join(lines), style=max(styles, key=lambda style: styles[style]))


def _nat_median(pair: NatPair) -> str:
    return _median(pair.connect_ms, pair.connected.count)


def _median(value_ms: float | None, n: int) -> str:
    return ("" if value_ms is None or supports(n, 0.5) else _FEW) + time_text(value_ms)


def _nat_success_table(pairs: Sequence[NatPair]) -> Table:
    title = "connected, by NAT behaviour"
    table = _table(title, ["initiator", "responder"], [*_PROPORTION_HEADINGS, "direct", "node pairs", "connect"])
    for pair in pairs:
        rest = count_text(pair.direct.count), count_text(pair.node_pairs), _nat_median(pair)
        table.add_row(escape(pair.initiator_nat), escape(pair.responder_nat), *_proportion(pair.connected), *rest)
    return table


def _plugin_table(plugins: Sequence[PluginSuccess]) -> Table:
    title = "attempts that gave a proved pipe, of those on the initiator's side that were not cut short"
    table = _table(title, ["plugin"], [*_PROPORTION_HEADINGS, "won", "cut short"])
    for one in plugins:
        rest = count_text(one.won), count_text(one.cancelled)
        table.add_row(escape(one.plugin), *_proportion(one.worked), *rest)
    return table


def _times_table(title: str, samples: Sequence[tuple[str | None, Times]]) -> Table:
    table = _table(f"{title}, by the plugin that won", ["plugin"], ["n", "least", "median", "95th percentile", "most"])
    for plugin, times in samples:
        if times.n:
            spread = time_text(times.least), _median(times.median, times.n), time_text(times.p95)
            table.add_row(escape(plugin or "all"), count_text(times.n), *spread, time_text(times.greatest))
    table.caption = f"{_FEW} or {NOTHING}: n is too small to estimate it"
    table.caption_justify = "left"
    return table


def _attempt_failures_table(failed: Sequence[AttemptFailure]) -> Table:
    table = _table("attempts that failed, on the initiator's side", ["plugin", "outcome"], ["count"])
    table.add_column("why", overflow="fold")
    for one in failed:
        table.add_row(escape(one.plugin), one.outcome, count_text(one.count), escape(sentence(one.reason)))
    return table


def _slowest(stories: Sequence[Story]) -> Iterator[Text]:
    yield Text(f"the slowest {len(stories)} that connected\n" if len(stories) > 1 else "the one that connected\n")
    for story in stories:
        row = story.connection
        nats = f"{row.initiator_nat or NOT_OBSERVED} to {row.responder_nat or NOT_OBSERVED}"
        yield Text(
            f"{row.initiator} -> {row.responder}, repeat {row.repeat}: {row.outcome} by {row.plugin} after "
            f"{time_text(row.connect_ms)} ({nats}), {row.connection_id}"
        )
        yield Text("\n".join(time_line(story)))
