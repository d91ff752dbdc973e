"""The plots of a report, as SVG whose text is text, at the width of a column of print."""

import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from itertools import zip_longest
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from warpfleet.telemetry.findings import Findings, NatPair, PluginTimes, Times, nat_order
from warpfleet.telemetry.statistics import Proportion, supports, wilson
from warpfleet.telemetry.units import count_text, time_text

COLUMN_IN = 3.5  # one column of a two-column paper
PAGE_IN = 7.2  # both
ROW_IN = 0.17  # a line of 7 pt text with air
PLOT_IN = 2.2
AXIS_IN = 0.6  # the x axis with its label
TITLE_IN = 0.35  # above a panel
PANELS = 3  # in a row
CELL_IN = 0.55
CELL_GAP = 0.04  # of a cell
LOG_FROM_RATIO = 10  # the greatest time to the least: below it, a logarithmic axis would have next to no ticks

# By name, since the page has other values for a dark ground. The series are those of Okabe and Ito, which people with
# any colour vision tell apart.
COLOURS = {
    "ink": "#1c2126",
    "muted": "#5c6670",
    "line": "#d4d9de",
    "direct": "#0072b2",
    "relayed": "#e69f00",
    "failed": "#c0392b",
    "series-1": "#0173b2",
    "series-2": "#d55e00",
    "series-3": "#029e73",
    "series-4": "#cc79a7",
    "series-5": "#56b4e9",
    "series-6": "#a6761d",
}
_FILLS = {"direct": "#b8dcf0", "relayed": "#f9e0a8", "no pipe": "#f2c0ba"}  # light: there is text on them
_SERIES = [colour for name, colour in COLOURS.items() if name.startswith("series")]
_MAX_TICKS = 6  # what a column has room for, each with its unit
_DASHES = ("solid", "dashed", "dotted")  # where there are more plugins than colours

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
    "xtick.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.transparent": True,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # they would differ from run to run


def draw(found: Findings, names: Iterable[str] | None = None) -> dict[str, str]:
    """The plots of these names, or all, that there is data for."""
    with mpl.rc_context(_STYLE):
        figures = {name: _PLOTS[name](found) for name in names or _PLOTS}
        return {name: _svg(name, figure) for name, figure in figures.items() if figure}


def _svg(name: str, figure: Figure) -> str:
    """The ids carry the plot's name, so that one page can hold several plots."""
    file = StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", file.getvalue())


def _figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def _connect_time(found: Findings) -> Figure | None:
    return _ecdf("time to connect", [(one, one.connect) for one in found.times], found.connected.n)


def _first_byte_time(found: Findings) -> Figure | None:
    return _ecdf("time to first byte", [(one, one.first_byte) for one in found.times], found.connected.n)


def _ecdf(label: str, samples: Sequence[tuple[PluginTimes, Times]], connections: int) -> Figure | None:
    """A curve for each plugin, of what it won; one for all connections, those that failed included."""
    drawn = [times for _, times in samples if times.n]
    if not drawn:
        return None
    legend_in = ROW_IN * ((len(drawn) + 1) // 2)
    figure, axes = _figure(COLUMN_IN, PLOT_IN + legend_in)
    for number, (one, times) in enumerate(samples):  # a plugin has one colour, also where another has no such times
        if not times.n:
            continue
        if one.plugin is None:
            style = {"color": COLOURS["ink"], "linewidth": 1.6}
            _curve(axes, times, connections, f"all, n = {count_text(connections)}", style)
        else:
            series, dashes = (number - 1) % len(_SERIES), (number - 1) // len(_SERIES) % len(_DASHES)
            style = {"color": _SERIES[series], "linestyle": _DASHES[dashes], "linewidth": 1.1}
            _curve(axes, times, times.n, f"{one.plugin}, n = {count_text(times.n)}", style)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_ylabel("share within the time")
    axes.set_xlabel(label)
    _time_axis(axes, drawn)
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.5, columnspacing=1.2)
    return figure


def _curve(axes: Axes, times: Times, n: int, label: str, style: dict[str, Any]) -> None:
    """Steps; points alone where there are too few values for a distribution."""
    points = len(times.curve)
    shares = [(place + 1) / points * times.n / n for place in range(points)]
    if supports(times.n, 0.5):
        axes.step([times.curve[0], *times.curve], [0, *shares], where="post", label=label, **style)
    else:
        axes.plot(times.curve, shares, label=label, **style | {"linestyle": "none", "marker": "o", "markersize": 3})


def _time_axis(axes: Axes, samples: Sequence[Times]) -> None:
    least = min(times.least for times in samples if times.least is not None)
    greatest = max(times.greatest for times in samples if times.greatest is not None)
    if least > 0 and greatest / least >= LOG_FROM_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=_MAX_TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(_MAX_TICKS - 1))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))


def _tick(value_ms: float, _place: int | None) -> str:
    return f"{value_ms:g} ms" if value_ms < 1000 else f"{value_ms / 1000:g} s"


def _success_by_plugin(found: Findings) -> Figure | None:
    rows = [(one.plugin, one.worked) for one in found.plugins if one.worked.n]
    if not rows:
        return None
    figure, axes = _figure(COLUMN_IN, AXIS_IN + ROW_IN * max(len(rows), 2))
    _intervals(axes, [f"{name}, n = {count_text(one.n)}" for name, one in rows], [one for _, one in rows])
    axes.set_xlabel("attempts that gave a proved pipe,\nwith 95 % Wilson interval")
    return figure


def _success_by_nat(found: Findings) -> Figure | None:
    """A panel for each NAT of the initiator, in it a row for each of the responder; n at the end of the row."""
    pairs = found.nat_pairs
    if not pairs:
        return None
    nats = nat_order(pairs)
    from_nats = [nat for nat in nats if any(pair.initiator_nat == nat for pair in pairs)]
    columns = min(len(from_nats), PANELS)
    rows = -(-len(from_nats) // columns)
    height_in = AXIS_IN + rows * (TITLE_IN + ROW_IN * max(len(nats), 2))
    figure = Figure(figsize=(PAGE_IN if columns > 1 else COLUMN_IN, height_in), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, nat in zip_longest(panels, from_nats):
        if nat is None:
            axes.set_visible(False)
            continue
        by_responder = {pair.responder_nat: pair.connected for pair in pairs if pair.initiator_nat == nat}
        _intervals(axes, nats, [by_responder.get(other) for other in nats])
        axes.set_title(f"from {nat}", loc="left", fontsize=7)
        for place, other in enumerate(nats):
            if other in by_responder:
                n = by_responder[other].n
                axes.text(1.05, place, f"{n}", va="center", fontsize=5.5, color=COLOURS["muted"])
    figure.supxlabel("connected, with 95 % Wilson interval; n at the end of each row", fontsize=8)
    return figure


def _intervals(axes: Axes, names: Sequence[str], rows: Sequence[Proportion | None]) -> None:
    colour = COLOURS["direct"]
    for place, one in enumerate(rows):
        if one and one.n:
            axes.plot(wilson(one.count, one.n), (place, place), color=colour, linewidth=1.2, solid_capstyle="butt")
            axes.plot(one.count / one.n, place, color=colour, marker="o", markersize=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _nat_matrix(found: Findings) -> Figure | None:
    """A square for each pair; what is direct, relayed and failed fills its area from the left."""
    nats = nat_order(found.nat_pairs)
    if not nats:
        return None
    side_in = min(max(CELL_IN * len(nats) + 1.5, COLUMN_IN), PAGE_IN)
    figure, axes = _figure(side_in, side_in * 0.9)
    for pair in found.nat_pairs:
        _nat_cell(axes, nats.index(pair.initiator_nat), nats.index(pair.responder_nat), pair)
    figure.legend(
        handles=[Patch(color=colour, label=name, linewidth=0) for name, colour in _FILLS.items()],
        loc="outside upper left",
        ncols=3,
        handlelength=1,
    )
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(nats)), nats, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(nats)), nats)
    axes.set_xlim(-0.5, len(nats) - 0.5)
    axes.set_ylim(len(nats) - 0.5, -0.5)
    axes.set_xlabel("responder's NAT\nin a cell: connected/n, median time to connect\n(~: of fewer than 6 values)")
    axes.set_ylabel("initiator's NAT")
    return figure


def _nat_cell(axes: Axes, row: int, column: int, pair: NatPair) -> None:
    left = column - 0.5 + CELL_GAP / 2
    failed = pair.connected.n - pair.connected.count
    for colour, count in zip(_FILLS.values(), (pair.direct.count, pair.relayed, failed), strict=True):
        width = (1 - CELL_GAP) * count / pair.connected.n
        axes.barh(row, width, left=left, height=1 - CELL_GAP, color=colour, linewidth=0)
        left += width
    few = "" if pair.connect_ms is None or supports(pair.connected.count, 0.5) else "~"
    text = f"{pair.connected.count}/{pair.connected.n}\n{few}{time_text(pair.connect_ms)}"
    axes.text(column, row, text, ha="center", va="center", fontsize=5.5)


def _failures(found: Findings) -> Figure | None:
    if not found.failures:
        return None
    names = [f"{one.outcome}: {one.reason or 'no reason recorded'}" for one in found.failures]
    figure, axes = _figure(COLUMN_IN, AXIS_IN + ROW_IN * max(len(names), 2))
    bars = axes.barh(range(len(names)), [one.count for one in found.failures], color=COLOURS["failed"], height=0.6)
    axes.bar_label(bars, padding=2, fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"connections without a pipe, of {count_text(sum(found.outcomes.values()))}")
    return figure


_PLOTS: dict[str, Callable[[Findings], Figure | None]] = {
    "connect-time": _connect_time,
    "first-byte-time": _first_byte_time,
    "nat-matrix": _nat_matrix,
    "success-by-nat": _success_by_nat,
    "success-by-plugin": _success_by_plugin,
    "failures": _failures,
}
