"""Medians, ratios and what is said of failures."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from bench import table
from bench.cells import AIOICE, BARE_TCP, NODE, STAGGERED, WARPGATE, Ended, PipeSpeed, Try, Upkeep


def tried(contender: str, first_byte_ms: float | None, *, packets: int = 4, error: str = "", **ended: bool) -> Try:
    return Try(
        contender=contender,
        initiator="alice",
        responder="bob",
        ended=Ended(first_byte_ms=first_byte_ms, how="some way" if first_byte_ms else "", error=error, **ended),
        took_ms=first_byte_ms or 0.0,
        packets=packets,
        sockets=2,
        cpu_ms=1.0,
    )


CROWDED = [("alice", "bob"), ("bob", "alice")]
RUN = [
    tried(BARE_TCP, 160.0),
    tried(NODE, 300.0, packets=10),
    tried(AIOICE, 400.0, relayed=True),
    tried(WARPGATE, None, error="no pipe"),
    tried(BARE_TCP, 170.0),
    tried(NODE, 360.0, packets=30),
    tried(AIOICE, None, packets=1_000, error="ICE negotiation failed"),
    tried(WARPGATE, None, error="no pipe"),
]


def test_ratios_are_of_medians_of_what_connected() -> None:
    found = {row.contender: row for row in table.rows(RUN)}
    assert list(found) == [BARE_TCP, NODE, AIOICE, WARPGATE]
    assert found[NODE].first_byte_ms == 330.0
    assert found[NODE].to_bare == pytest.approx(2.0)
    assert found[NODE].to_aioice == pytest.approx(0.825)
    assert found[NODE].packets == 20
    assert (found[AIOICE].connected, found[AIOICE].tries, found[AIOICE].relayed) == (1, 2, 1)
    assert found[AIOICE].packets == 4, "what a failure cost is no cost of a success"


def test_what_never_connected_has_no_figures() -> None:
    [row] = [row for row in table.rows(RUN) if row.contender == WARPGATE]
    assert (row.connected, row.tries) == (0, 2)
    assert {row.first_byte_ms, row.to_bare, row.to_aioice, row.packets, row.sockets, row.cpu_ms} == {None}


def test_without_a_base_there_is_no_ratio() -> None:
    [row] = table.rows([tried(NODE, 300.0)])
    assert (row.to_bare, row.to_aioice) == (None, None)


def test_failures_are_told_with_their_reasons() -> None:
    assert table.problems(RUN) == [
        "alice -> bob, warpgate: 2 x no pipe",
        "alice -> bob, aioice: 1 x ICE negotiation failed",
    ]


def test_the_longest_names_fit_in_a_file() -> None:
    long = [replace(tried(STAGGERED, 12_345.0, packets=12_345), cpu_ms=1_234.5)]
    long = [replace(one, initiator="symmetric_sequential", responder="public_firewalled") for one in long]
    long = [replace(one, ended=replace(one.ended, how="reverse_connect", relayed=True)) for one in long]
    out = io.StringIO()
    table.show(long, [], [], Console(file=out, width=120), crowd=32, crowded=[])
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["symmetric_sequential", "->", "public_firewalled"] in lines
    assert ["staggered", "reverse_connect*", "1/1", "12,345", "-", "-", "12,345", "2", "1,234.5"] in lines


def test_everything_is_printed() -> None:
    pipes = [
        PipeSpeed(contender="bare tcp", transport="tcp", round_trip_ms=0.2, throughput_mb_s=1_000.0),
        PipeSpeed(contender=NODE, transport="tcp", round_trip_ms=0.25, throughput_mb_s=800.0),
        PipeSpeed(contender=AIOICE, transport="udp", error="aioice has no such pipe"),
    ]
    upkeep = [
        Upkeep(contender=NODE, nodes=2, memory_mib=30.0, idle_cpu_ms_s=0.5, crowd_cpu_ms=(12.0, None)),
        Upkeep(contender=AIOICE, nodes=2, memory_mib=20.0, idle_cpu_ms_s=0.5, crowd_cpu_ms=(10.0, 8.0)),
    ]
    out = io.StringIO()
    table.show(RUN, pipes, upkeep, Console(file=out, width=120), crowd=32, crowded=CROWDED)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["alice", "->", "bob"] in lines
    assert ["node", "some", "way", "2/2", "330", "2.00", "0.82", "20", "2", "1.0"] in lines
    assert ["aioice", "some", "way*", "1/2", "400", "2.42", "1.00", "4", "2", "1.0"] in lines
    assert ["warpgate", "0/2", "-", "-", "-", "-", "-", "-"] in lines
    assert ["tcp", "node", "0.25", "1.25", "800.0", "0.80"] in lines
    assert ["udp", "aioice", "-", "-", "-", "-", "aioice", "has", "no", "such", "pipe"] in lines
    assert ["node", "2", "30.0", "0.5", "12.0", "1.20", "-", "-"] in lines
