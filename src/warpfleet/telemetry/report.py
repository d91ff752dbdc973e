"""The tables of a sweep for the terminal. Colour is rich's business: it appears on a terminal only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from warpfleet.core.combo import ConnectionOutcome
from warpfleet.telemetry.analysis import Cell, Failure, Share, failures, matrix, outcomes, summary, tables
from warpfleet.telemetry.reasons import sentence
from warpfleet.telemetry.statistics import supports

MAX_FULL_NODES = 9  # with the times: 11 columns each, on 120
MAX_MATRIX_NODES = 24  # with two letters: 3 columns each, on 100
MAX_LISTED = 50  # lines of the list that a larger fleet gets

_STYLES = {
    ConnectionOutcome.DIRECT: "green",
    ConnectionOutcome.RELAYED: "yellow",
    ConnectionOutcome.FAILED: "red",
    ConnectionOutcome.CANCELLED: "dim",
    ConnectionOutcome.ERROR: "bold red",
}
_SHORT = {
    "direct_connect": "dir",
    "reverse_connect": "rev",
    "tcp_punch": "tcp",
    "udp_punch": "udp",
    "random_probe": "probe",
    "turn": "turn",
}


def ending(directory: Path) -> RenderableType:
    """What a sweep ends with: the matrix, what won, what failed. InputError where there is none."""
    with tables(directory) as database:
        parts: list[RenderableType] = [
            outcomes_line(outcomes(database)),
            matrix_table(matrix(database)),
            summary_table(summary(database)),
        ]
        failed = failures(database)
    if failed:
        parts.append(failures_table(failed))
    return Group(*parts)


def outcomes_line(counts: Mapping[ConnectionOutcome, int]) -> Text:
    """How many connections ended in which way."""
    line = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "none yet"
    return Text(f"{sum(counts.values())} connections: {line}")


def matrix_table(cells: Sequence[Cell]) -> RenderableType:
    """Initiators down, responders across; a list of the initiators where there are too many for that."""
    nodes = sorted({name for cell in cells for name in (cell.initiator, cell.responder)})
    if len(nodes) > MAX_MATRIX_NODES:
        return _initiator_list(cells)
    full = len(nodes) <= MAX_FULL_NODES
    by_pair = {(cell.initiator, cell.responder): cell for cell in cells}
    title = "initiator (down) x responder (across)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("#", no_wrap=True)
    for number in range(1, len(nodes) + 1):
        table.add_column(str(number), overflow="fold")
    for number, name in enumerate(nodes, 1):
        row = (_cell(by_pair.get((name, other)), full=full) for other in nodes)
        table.add_row(f"{number} {escape(name)}", *row)
    return Group(table, Text(_legend(cells, full=full), style="dim"))


def summary_table(shares: Sequence[Share]) -> Table:
    """What won, by phase and plugin."""
    table = Table(title="what won (times in ms, median / 95th percentile where n supports it)", title_justify="left")
    for heading in ("phase", "plugin"):
        table.add_column(heading)
    for heading in ("count", "share", "connect", "first byte"):
        table.add_column(heading, justify="right")
    for share in shares:
        connect = _pair(share.connect_ms_median, share.connect_ms_p95, share.count)
        first_byte = _pair(share.first_byte_ms_median, share.first_byte_ms_p95, share.count)
        table.add_row(share.phase, escape(share.plugin), str(share.count), f"{share.share:.1%}", connect, first_byte)
    return table


def failures_table(failed: Sequence[Failure]) -> Table:
    """What gave no pipe, by reason."""
    table = Table(title="no pipe", title_justify="left")
    table.add_column("outcome")
    table.add_column("count", justify="right")
    table.add_column("why", overflow="fold")
    table.add_column("for example", overflow="fold")
    for one in failed:
        outcome = Text(one.outcome, style=_STYLES[one.outcome])
        table.add_row(outcome, str(one.count), escape(sentence(one.reason)), escape(one.example))
    return table


def _cell(cell: Cell | None, *, full: bool) -> Text:
    if cell is None:
        return Text("")
    return Text(_full(cell) if full else _code(cell), style=_STYLES[cell.outcome])


def _full(cell: Cell) -> str:
    if cell.plugin is None or cell.outcome not in (ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED):
        text = cell.outcome.value
    else:
        relayed = "*" if cell.outcome is ConnectionOutcome.RELAYED else ""
        text = _SHORT.get(cell.plugin, cell.plugin[:7]) + relayed
    if cell.connect_ms is not None:
        text += f" {cell.connect_ms:.0f}" if cell.connect_ms < 999.5 else f" {cell.connect_ms / 1000:.1f}s"
    return text if cell.connected in (0, cell.tries) else f"{text} {cell.connected}/{cell.tries}"


def _code(cell: Cell) -> str:
    """Two letters: the initials of the plugin's words."""
    if cell.plugin is None or cell.outcome not in (ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED):
        return "--"
    words = cell.plugin.split("_")
    return "".join(word[:1] for word in words[:2]) if len(words) > 1 else cell.plugin[:2]


def _legend(cells: Sequence[Cell], *, full: bool) -> str:
    plugins = sorted({cell.plugin for cell in cells if cell.plugin})
    if full:
        names = [f"{_SHORT[name]} = {name}" for name in plugins if _SHORT.get(name, name) != name]
        return ", ".join(
            [*names, "* = relayed", "number = median time to connect (ms, or s)", "n/m = n of m tries connected"]
        )
    codes = sorted({f"{_code(cell)} = {cell.plugin}" for cell in cells if cell.plugin and _code(cell) != "--"})
    return ", ".join([*codes, "-- = no pipe"])


def _initiator_list(cells: Sequence[Cell]) -> RenderableType:
    """One line an initiator, those with the fewest direct pipes first."""
    by_initiator: dict[str, list[Cell]] = {}
    for cell in cells:
        by_initiator.setdefault(cell.initiator, []).append(cell)
    counts = {name: Counter(cell.outcome for cell in of_one) for name, of_one in by_initiator.items()}
    direct = ConnectionOutcome.DIRECT
    worst = sorted(by_initiator, key=lambda name: (counts[name][direct] / len(by_initiator[name]), name))
    table = Table(title="by initiator, the fewest direct pipes first", title_justify="left")
    table.add_column("initiator")
    for heading in (*ConnectionOutcome, "median ms"):
        table.add_column(str(heading), justify="right")
    for name in worst[:MAX_LISTED]:
        times = [cell.connect_ms for cell in by_initiator[name] if cell.connect_ms is not None]
        numbers = [str(counts[name][outcome]) for outcome in ConnectionOutcome]
        table.add_row(escape(name), *numbers, f"{median(times):.0f}" if times else "")
    more = len(worst) - MAX_LISTED
    return Group(table, Text(f"and {more} more initiators")) if more > 0 else table


def _pair(middle: float | None, high: float | None, n: int) -> str:
    if middle is None or high is None:
        return ""
    return f"{middle:.0f} / {high:.0f}" if supports(n, 0.95) else f"{middle:.0f} / -"
