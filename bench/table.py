"""What a run found, as tables with ratios. Pure: rows of values first, then their text."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.cells import AIOICE, BARE_TCP, PipeSpeed, Try, Upkeep

_PLAIN: Any = {"box": SIMPLE, "padding": (0, 1), "collapse_padding": True, "pad_edge": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender at one pair. Costs and times are medians over the tries that led to a first byte; ratios are None
    where the other side has none."""

    initiator: str
    responder: str
    contender: str
    tries: int
    connected: int
    relayed: int
    how: str  # what made the link, most frequently
    first_byte_ms: float | None
    to_bare: float | None
    to_aioice: float | None
    packets: float | None
    sockets: float | None
    cpu_ms: float | None


def rows(tries: Sequence[Try]) -> list[Row]:
    """One row for each pair and contender, in the order of their first tries."""
    pairs = dict.fromkeys((t.initiator, t.responder) for t in tries)
    contenders = dict.fromkeys(t.contender for t in tries)
    found = []
    for pair in pairs:
        of_pair = [t for t in tries if (t.initiator, t.responder) == pair]
        by_contender = {name: [t for t in of_pair if t.contender == name] for name in contenders}
        first_bytes = {name: median_of(some, lambda t: t.ended.first_byte_ms) for name, some in by_contender.items()}
        bare_ms, aioice_ms = first_bytes.get(BARE_TCP), first_bytes.get(AIOICE)
        for name, some in by_contender.items():
            if some:
                found.append(_row(name, some, first_bytes[name], bare_ms, aioice_ms))
    return found


def problems(tries: Sequence[Try]) -> list[str]:
    """What did not work and why, a line for each pair, contender and reason."""
    failed = Counter((f"{t.initiator} -> {t.responder}, {t.contender}", t.ended.error) for t in tries if t.ended.error)
    return [f"{where}: {count} x {why}" for (where, why), count in failed.items()]


def median_of(tries: Iterable[Try], value: Callable[[Try], float | None]) -> float | None:
    """The median over the tries that led to a first byte; None where none has a value."""
    values = [found for t in tries if t.ended.first_byte_ms is not None and (found := value(t)) is not None]
    return statistics.median(values) if values else None


def ratio(value: float | None, base: float | None) -> float | None:
    """None where either is missing, or the base is nothing."""
    return value / base if value is not None and base else None


def show(
    tries: Sequence[Try],
    pipes: Sequence[PipeSpeed],
    upkeep: Sequence[Upkeep],
    console: Console,
    *,
    crowd: int,
    crowded: Sequence[tuple[str, str]],
) -> None:
    """Print everything. `crowd` is how many were in flight at once, of each of the pairs in `crowded`."""
    console.print(_first_bytes(rows(tries)))
    console.print("* = relayed. bare tcp is two round trips: as many as a signalled connection needs by physics.")
    for problem in problems(tries):
        console.print(problem, highlight=False)
    console.print(_pipes(pipes))
    console.print(_upkeep(upkeep, crowd, crowded))


def _row(
    name: str, tries: list[Try], first_byte_ms: float | None, bare_ms: float | None, aioice_ms: float | None
) -> Row:
    connected = [t.ended for t in tries if t.ended.first_byte_ms is not None]
    return Row(
        initiator=tries[0].initiator,
        responder=tries[0].responder,
        contender=name,
        tries=len(tries),
        connected=len(connected),
        relayed=sum(ended.relayed for ended in connected),
        how=statistics.mode([ended.how for ended in connected] or [""]),
        first_byte_ms=first_byte_ms,
        to_bare=ratio(first_byte_ms, bare_ms),
        to_aioice=ratio(first_byte_ms, aioice_ms),
        packets=median_of(tries, lambda t: t.packets),
        sockets=median_of(tries, lambda t: t.sockets),
        cpu_ms=median_of(tries, lambda t: t.cpu_ms),
    )


def _first_bytes(found: Sequence[Row]) -> Table:
    table = Table(title="time to the first byte echoed back, and what both hosts spent on it (medians)", **_PLAIN)
    table.add_column("pair, contender", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for heading in ("ok", "ms", "x bare", "x aioice", "packets", "sockets", "CPU ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    pairs = dict.fromkeys((row.initiator, row.responder) for row in found)
    for initiator, responder in pairs:
        table.add_section()
        table.add_row(f"{initiator} -> {responder}")
        for row in found:
            if (row.initiator, row.responder) == (initiator, responder):
                table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"  {row.contender}",
        row.how + "*" * (row.relayed > 0),
        f"{row.connected}/{row.tries}",
        number(row.first_byte_ms, 0),
        number(row.to_bare, 2),
        number(row.to_aioice, 2),
        number(row.packets, 0),
        number(row.sockets, 0),
        number(row.cpu_ms, 1),
    )


def _pipes(pipes: Sequence[PipeSpeed]) -> Table:
    table = Table(title="a pipe between two hosts without delay, against the bare socket on the same path", **_PLAIN)
    for heading in ("transport", "contender"):
        table.add_column(heading)
    for heading in ("round trip ms", "x bare", "MB/s", "x bare"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    bare = {pipe.transport: pipe for pipe in reversed(pipes)}  # the first of a transport is the bare one
    for pipe in pipes:
        base = bare[pipe.transport]
        table.add_row(
            pipe.transport,
            pipe.contender,
            number(pipe.round_trip_ms, 2),
            number(ratio(pipe.round_trip_ms, base.round_trip_ms), 2),
            number(pipe.throughput_mb_s, 1),
            number(ratio(pipe.throughput_mb_s, base.throughput_mb_s), 2),
            pipe.error,
        )
    return table


def _upkeep(upkeep: Sequence[Upkeep], crowd: int, crowded: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=f"memory, CPU at rest, and CPU ms of a connection with {crowd} in flight", **_PLAIN)
    table.add_column("contender")
    for heading in ("nodes", "MiB a node", "idle CPU ms/s"):
        table.add_column(heading, justify="right")
    for pair in crowded:
        table.add_column(" -> ".join(pair), justify="right")
        table.add_column("x aioice", justify="right")
    aioice = next((one.crowd_cpu_ms for one in upkeep if one.contender == AIOICE), (None,) * len(crowded))
    for one in upkeep:
        table.add_row(
            one.contender,
            str(one.nodes),
            number(one.memory_mib, 1),
            number(one.idle_cpu_ms_s, 1),
            *(cell for ms, its in zip(one.crowd_cpu_ms, aioice, strict=True) for cell in _compared(ms, its)),
        )
    return table


def _compared(value: float | None, base: float | None) -> tuple[str, str]:
    return number(value, 1), number(ratio(value, base), 2)


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"
