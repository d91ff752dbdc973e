"""What people read: the tables, and the story of one connection."""

import json
from io import StringIO
from pathlib import Path

import pytest
import telemetry_rows as rows
from rich.console import Console, RenderableType

from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Phase, Reason, Side, Transport
from warpfleet.core.errors import InputError
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.telemetry import analysis
from warpfleet.telemetry.analysis import Cell
from warpfleet.telemetry.explain import explain, explain_values
from warpfleet.telemetry.reasons import FILTERINGS, MAPPINGS, PORTS, SENTENCES
from warpfleet.telemetry.records import NatObservationRow
from warpfleet.telemetry.report import ending, matrix_table
from warpfleet.telemetry.writer import TelemetryWriter


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    first, again = rows.started("aa1"), rows.started("aa2", repeat=1)
    writer.connections([rows.direct(first, 100.0), rows.direct(again, 200.0)])
    writer.connections(
        [rows.relayed(rows.started("b1", "bob", "alice")), rows.failed(rows.started("c1", "bob", "carol"))]
    )
    writer.attempts(
        [
            rows.attempt("aa1", "3", "turn", AttemptOutcome.SKIPPED, phase=Phase.RELAY, reason=Reason.NOT_NEEDED),
            rows.attempt(
                "aa1", "2", "tcp_punch", AttemptOutcome.WON, transport=Transport.TCP, started_ms=50.0, ended_ms=100.0
            ),
            rows.attempt(
                "aa1", "1", "direct_connect", AttemptOutcome.FAILED, reason=Reason.REFUSED, started_ms=1.0, ended_ms=9.0
            ),
            rows.attempt(
                "aa1",
                "4",
                "udp_punch",
                AttemptOutcome.LOST,
                reason=Reason.OTHER_PIPE_WON,
                started_ms=60.0,
                ended_ms=101.0,
            ),
            rows.attempt("aa1", "2", "tcp_punch", AttemptOutcome.WON, side=Side.RESPONDER, started_ms=55.0),
        ]
    )
    writer.observations(
        [
            NatObservationRow(
                sweep_id="s1",
                node="alice",
                observed_at=rows.NOW,
                external_ip="198.51.100.7",
                mapping=Mapping.EIM,
                filtering=Filtering.APDF,
                port_assignment=PortAssignment.PRESERVING,
                source="stun",
                confidence=0.9,
            )
        ]
    )
    writer.close(rows.NOW)
    return tmp_path


def shown(table: RenderableType, width: int) -> str:
    file = StringIO()
    Console(width=width, file=file).print(table)
    return file.getvalue()


def test_every_reason_and_term_has_a_sentence() -> None:
    assert SENTENCES.keys() == set(Reason)
    assert MAPPINGS.keys() == set(Mapping)
    assert FILTERINGS.keys() == set(Filtering)
    assert PORTS.keys() == set(PortAssignment)
    assert len(set(SENTENCES.values())) == len(Reason)


def test_the_matrix(directory: Path) -> None:
    with analysis.tables(directory) as database:
        cells = {(cell.initiator, cell.responder): cell for cell in analysis.matrix(database)}
    assert cells["alice", "bob"] == Cell(
        "alice", "bob", 2, 2, ConnectionOutcome.DIRECT, "tcp_punch", Transport.TCP, 150.0
    )
    assert cells["bob", "alice"].outcome is ConnectionOutcome.RELAYED
    assert cells["bob", "carol"].plugin is None


def test_the_summary_and_the_failures(directory: Path) -> None:
    with analysis.tables(directory) as database:
        punch, relay = analysis.summary(database)
        (failure,) = analysis.failures(database)
        outcomes = analysis.outcomes(database)
    assert (punch.phase, punch.plugin, punch.count, punch.share) == (Phase.PUNCH, "tcp_punch", 2, 0.5)
    assert (punch.connect_ms_median, punch.connect_ms_p95) == (150.0, 195.0)
    assert (relay.phase, relay.first_byte_ms_median) == (Phase.RELAY, None)
    assert (failure.reason, failure.count, failure.example) == (Reason.ALL_FAILED, 1, "c1")
    assert outcomes[ConnectionOutcome.DIRECT] == 2


def test_a_second_try_stands_for_the_interrupted_first(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.started([rows.started("x1"), rows.started("y1", repeat=1)])
    writer.close(rows.NOW)
    assert analysis.completed_pairs(tmp_path) == set()
    writer = TelemetryWriter(tmp_path, rows.sweep(), resume=True)
    writer.connections([rows.direct(rows.started("x2"))])
    writer.close(rows.NOW)
    assert analysis.completed_pairs(tmp_path) == {("alice", "bob", 0)}
    with analysis.tables(tmp_path) as database:
        assert analysis.outcomes(database)[ConnectionOutcome.CANCELLED] == 1


def test_the_story_tells_the_block_that_ports_are_drawn_from(tmp_path: Path) -> None:
    seen = NatObservationRow(
        sweep_id="s1",
        node="alice",
        observed_at=rows.NOW,
        mapping=Mapping.APDM,
        filtering=Filtering.APDF,
        port_assignment=PortAssignment.RANDOM,
        source="rfc5780",
        confidence=0.75,
        port_first=40_001,
        port_last=40_923,
    )
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.connections([rows.direct(rows.started("x1"))])
    writer.observations([seen])
    writer.close(rows.NOW)
    assert "seen from 40001 to 40923)" in explain(tmp_path, "x1")


def test_the_story(directory: Path) -> None:
    text = explain(directory, "aa1")
    lines = text.splitlines()
    order = [next(i for i, line in enumerate(lines) if part in line) for part in ("direct_connect (", "tcp_punch (TCP")]
    assert order == sorted(order)
    for part in (
        "alice -> bob",
        "a direct pipe by tcp_punch",
        "authenticated after 100 ms",
        "port_restricted, seen as 198.51.100.7",
        "one external port for every destination",
        "failed: " + SENTENCES[Reason.REFUSED],
        "on bob, the responder",
        "turn (IPv4, external address): " + SENTENCES[Reason.NOT_NEEDED],
        "udp_punch worked as well and was closed",
        "unknown (nothing was observed in this sweep)",
    ):
        assert part in text


def test_the_story_names_what_the_observatory_advised(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.connections([rows.direct(rows.started("aa1"))])
    never, moved = "0 of 8 tries reached TCP listeners behind 198.18.0.4", "moved from 0.30 s to 0.59 s: because"
    ruled_out = {"reason": Reason.EXPERIENCE_RULES_OUT, "advice": never}
    writer.attempts(
        [
            rows.attempt("aa1", "1", "direct_connect", AttemptOutcome.SKIPPED, **ruled_out),
            rows.attempt("aa1", "2", "udp_punch", AttemptOutcome.SKIPPED, reason=Reason.NOT_NEEDED, advice=moved),
            rows.attempt("aa1", "3", "tcp_punch", AttemptOutcome.WON, started_ms=50.0, ended_ms=100.0, advice=moved),
            rows.attempt("aa1", "4", "turn", AttemptOutcome.SKIPPED, reason=Reason.NOT_NEEDED),
        ]
    )
    writer.close(rows.NOW)
    lines = explain(tmp_path, "aa1").splitlines()
    start = lines.index("What the observatory advised")
    assert lines[start + 1 : start + 5] == [
        f"  direct_connect (IPv4, external address), left out: {never}",
        f"  tcp_punch (IPv4, external address), {moved}",
        f"  udp_punch (IPv4, external address), {moved}",
        "",
    ]
    advice = {a["plugin"]: a["advice"] for a in explain_values(tmp_path, "aa1")["attempts"]}
    assert advice == {"direct_connect": never, "udp_punch": moved, "tcp_punch": moved, "turn": None}


def test_without_advice_the_story_has_no_word_of_it(directory: Path) -> None:
    assert "observatory" not in explain(directory, "aa1")


def test_the_story_as_values(directory: Path) -> None:
    values = json.loads(json.dumps(explain_values(directory, "aa1")))
    assert values["connection"]["outcome"] == "direct"
    assert values["nats"]["alice"]["alias"] == "port_restricted"
    assert values["attempts"][0]["why"].startswith("failed: ")


@pytest.mark.parametrize(
    ("wanted", "found"), [("c", "c1"), ("alice:bob", "aa2"), ("alice:bob:0", "aa1"), ("bob:carol", "c1")]
)
def test_ways_to_name_a_connection(directory: Path, wanted: str, found: str) -> None:
    assert f"connection {found}," in explain(directory, wanted)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("aa", "'aa' begins aa1, aa2; give more of the id"),
        ("alice:bobb", "no connection 'alice:bobb'; there are for example alice:bob"),
        ("alice:bob:9", "no connection 'alice:bob:9'"),
        ("alice:bob:" + "9" * 30, "no connection"),
        ("", "no connection ''; there are for example alice:bob"),
    ],
)
def test_a_connection_that_is_not_there(directory: Path, wanted: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        explain(directory, wanted)
    assert message in str(caught.value)


def test_the_ending_has_no_colour_off_a_terminal(directory: Path) -> None:
    text = shown(ending(directory), 100)
    assert "4 connections: 2 direct, 1 relayed, 1 failed" in text
    assert "tcp 150" in text
    assert "turn* 300" in text
    assert SENTENCES[Reason.ALL_FAILED][:40] in text
    assert "\x1b" not in text


def cells(count: int) -> list[Cell]:
    names = [f"node-{number:03}-[x]" for number in range(count)]
    kind = (ConnectionOutcome.DIRECT, "random_probe", Transport.UDP, 9900.0)
    return [Cell(one, two, 1, 1, *kind) for one in names for two in names if one != two]


def test_nine_nodes_fit_with_their_times() -> None:
    lines = shown(matrix_table(cells(9)), 120).splitlines()
    assert [line.count("probe 9.9s") for line in lines if "probe 9" in line] == [8] * 9
    assert any("9 node-008-[x]" in line for line in lines)


def test_twenty_four_nodes_fit_in_letters() -> None:
    lines = shown(matrix_table(cells(24)), 100).splitlines()
    assert [line.split().count("rp") for line in lines if "node-" in line] == [23] * 24


def test_more_become_a_list() -> None:
    text = shown(matrix_table(cells(60)), 100)
    assert text.count("node-") == 50
    assert "and 10 more initiators" in text
