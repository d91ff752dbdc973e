"""What a sweep found: the numbers, and the text, page and figures that are made of them."""

import json
import re
import socket
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import telemetry_rows as rows
from rich.console import Console

from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Phase, Reason, Side
from warpfleet.telemetry import text
from warpfleet.telemetry.figures import draw
from warpfleet.telemetry.findings import (
    MAX_CURVE_POINTS,
    MAX_SLOWEST,
    NOT_OBSERVED,
    AttemptFailure,
    Cost,
    findings,
    findings_values,
    nat_order,
)
from warpfleet.telemetry.page import page, time_line
from warpfleet.telemetry.records import AttemptRow, ConnectionRow
from warpfleet.telemetry.writer import TelemetryWriter

EVIL = "<script>alert(1)</script>"
PLOTS = {"connect-time", "first-byte-time", "nat-matrix", "success-by-nat", "success-by-plugin", "failures"}


def written(
    directory: Path, connections: Iterable[ConnectionRow], attempts: Iterable[AttemptRow] = (), **plan: object
) -> Path:
    writer = TelemetryWriter(directory, rows.sweep(**plan))
    writer.connections(connections)
    writer.attempts(attempts)
    writer.close(rows.NOW)
    return directory


def between(row: ConnectionRow, initiator_nat: str | None, responder_nat: str | None) -> ConnectionRow:
    return replace(row, initiator_nat=initiator_nat, responder_nat=responder_nat)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Seven direct, one relayed and one failed connection between two NATs, and one that was cancelled."""
    connections = [
        between(rows.direct(rows.started(f"d{number}", repeat=number), 100.0 + number), "open", "closed")
        for number in range(7)
    ]
    connections.append(between(rows.relayed(rows.started("r", EVIL, "bob")), "closed", "closed"))
    connections.append(rows.failed(rows.started("f", "bob", EVIL), Reason.DEADLINE))
    connections.append(
        replace(rows.failed(rows.started("c", "bob", "carol"), Reason.STOPPED), outcome=ConnectionOutcome.CANCELLED)
    )
    ran = {"started_ms": 10.0, "ended_ms": 90.0, "packets_sent": 3}
    attempts = [
        rows.attempt("d0", "1", "tcp_punch", AttemptOutcome.WON, **ran),
        rows.attempt("d0", "1", "tcp_punch", AttemptOutcome.WON, side=Side.RESPONDER, **ran),
        rows.attempt("d1", "2", "tcp_punch", AttemptOutcome.LOST, reason=Reason.OTHER_PIPE_WON, **ran),
        rows.attempt("d1", "3", "tcp_punch", AttemptOutcome.CANCELLED, reason=Reason.OTHER_PIPE_WON, **ran),
        rows.attempt("d1", "4", "tcp_punch", AttemptOutcome.SKIPPED, reason=Reason.NOT_NEEDED),
        rows.attempt("f", "5", "tcp_punch", AttemptOutcome.TIMEOUT, reason=Reason.NO_ANSWER, started_ms=5.0),
        rows.attempt("r", "6", EVIL, AttemptOutcome.FAILED, reason=Reason.REFUSED, **ran),
        rows.attempt("r", "7", "turn", AttemptOutcome.WON, phase=Phase.RELAY, started_ms=150.0),
        rows.attempt("f", "8", "get_addr", AttemptOutcome.FAILED, phase=None, reason=Reason.REFRESHED, **ran),
    ]
    return written(tmp_path, connections, attempts, fleet={"name": EVIL, "nodes": [{"name": EVIL}]})


def test_cancelled_connections_are_in_no_share(directory: Path) -> None:
    found = findings(directory)
    assert found.outcomes[ConnectionOutcome.CANCELLED] == 1
    assert (found.connected.count, found.direct.count, found.relayed.count) == (8, 7, 1)
    assert {found.connected.n, found.direct.n, found.relayed.n} == {9}


def test_pairs_of_nats_with_the_most_direct_first(directory: Path) -> None:
    pairs = findings(directory).nat_pairs
    assert [
        (p.initiator_nat, p.responder_nat, p.direct.count, p.relayed, p.connected.n, p.node_pairs, p.connect_ms)
        for p in pairs
    ] == [
        ("open", "closed", 7, 0, 7, 1, 103.0),
        ("closed", "closed", 0, 1, 1, 1, 300.0),
        (NOT_OBSERVED, NOT_OBSERVED, 0, 0, 1, 1, None),
    ]
    assert nat_order(pairs) == ["open", "closed", NOT_OBSERVED]


def test_a_plugin_succeeds_where_it_worked_of_what_was_not_cut_short(directory: Path) -> None:
    evil, punch, turn = findings(directory).plugins
    assert (punch.plugin, punch.worked.count, punch.worked.n, punch.won, punch.cancelled) == ("tcp_punch", 2, 3, 1, 1)
    assert (evil.worked.count, evil.worked.n) == (0, 1)
    assert (turn.worked.count, turn.worked.n) == (1, 1)


def test_failed_attempts_by_reason(directory: Path) -> None:
    assert findings(directory).attempt_failures == [
        AttemptFailure(EVIL, AttemptOutcome.FAILED, Reason.REFUSED, 1),
        AttemptFailure("tcp_punch", AttemptOutcome.TIMEOUT, Reason.NO_ANSWER, 1),
    ]


def test_times_of_all_and_by_plugin(directory: Path) -> None:
    everything, punch, turn = findings(directory).times
    assert (everything.plugin, everything.connect.n, everything.connect.greatest) == (None, 8, 300.0)
    assert punch.connect.curve == (100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0)
    assert (punch.connect.least, punch.connect.median, punch.connect.p95) == (100.0, 103.0, None)
    assert (punch.first_byte.median, turn.first_byte.n, turn.first_byte.median) == (113.0, 0, None)


def test_a_large_sample_is_its_quantiles(tmp_path: Path) -> None:
    count = 10 * MAX_CURVE_POINTS
    made = [rows.direct(rows.started(f"d{number}", repeat=number), float(number + 1)) for number in range(count)]
    found = findings(written(tmp_path, made))
    times = found.times[0].connect
    assert times.curve == tuple(10.0 * step for step in range(1, MAX_CURVE_POINTS + 1))
    assert times.p95 == pytest.approx(0.95 * count, abs=1)
    assert [one.connection.connect_ms for one in found.slowest] == [
        float(count - place) for place in range(MAX_SLOWEST)
    ]


def test_what_it_took(directory: Path) -> None:
    assert findings(directory).cost == Cost(
        attempts=8, packets=18, attempt_packets=18, probe_packets=None, superseded=0
    )


def test_packets_of_probes_count_where_they_are_recorded(directory: Path) -> None:
    segment = directory / "nat_observations" / "00000000.parquet"
    empty = pq.read_table(segment)
    names = [name for name in empty.column_names if name != "packets_sent"]
    newer = empty.select(names).to_pylist() + [
        dict.fromkeys(names) | {"packets_sent": count} for count in (20, None, 3)
    ]
    pq.write_table(type(empty).from_pylist(newer), segment.with_name("00000009.parquet"))
    cost = findings(directory).cost
    assert (cost.probe_packets, cost.packets) == (23, 41)


def test_an_older_directory_lacks_columns(directory: Path) -> None:
    for segment in (directory / "connections").iterdir():
        pq.write_table(pq.read_table(segment).drop_columns(["reason", "upgraded_ms"]), segment)
    found = findings(directory)
    assert [(one.outcome, one.reason) for one in found.failures] == [
        (ConnectionOutcome.CANCELLED, None),
        (ConnectionOutcome.FAILED, None),
    ]
    assert found.slowest[0].connection.upgraded_ms is None
    assert page(found)


def test_an_interrupted_try_counts_once(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.started([rows.started("x1")])
    writer.attempts([rows.attempt("x1", "1", "turn", AttemptOutcome.CANCELLED, started_ms=1.0)])
    writer.close(rows.NOW)
    writer = TelemetryWriter(tmp_path, rows.sweep(), resume=True)
    writer.connections([rows.direct(rows.started("x2"))])
    writer.close(rows.NOW)
    found = findings(tmp_path)
    assert found.cost == Cost(attempts=0, packets=None, attempt_packets=None, probe_packets=None, superseded=1)
    assert (found.connected.count, found.connected.n, found.plugins) == (1, 1, [])


def test_a_writer_may_be_adding(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.connections([rows.direct(rows.started("d"))])
    writer.flush()
    found = findings(tmp_path)
    assert found.connected.n == 1
    assert "had not ended" in page(found)
    assert "ended: not yet" in shown(tmp_path)
    writer.close(rows.NOW)


def test_everything_as_values(directory: Path) -> None:
    values = json.loads(json.dumps(findings_values(findings(directory))))
    assert values["connected"] == {
        "count": 8,
        "n": 9,
        "share": pytest.approx(8 / 9),
        "low": pytest.approx(0.565, abs=1e-3),
        "high": pytest.approx(0.980, abs=1e-3),
    }
    assert values["sweep"]["seed"] == 7
    assert values["slowest"][0]["connection"]["connection_id"] == "r"
    assert values["slowest"][0]["attempts"][0]["why"].startswith("failed: ")


def shown(directory: Path) -> str:
    file = StringIO()
    Console(width=120, file=file).print(text.report(findings(directory)))
    return file.getvalue()


def test_the_text_tells_everything(directory: Path) -> None:
    said = shown(directory)
    for part in (
        "seed: 7",
        "10 connections: 7 direct, 1 relayed, 1 failed, 1 cancelled",
        "8 of 9",
        "~300 ms",
        "│ tcp_punch                 │ 2 of 3 │  67 %",
        f"{EVIL} -> bob, repeat 0: relayed by turn after 300 ms",
        "10.0 ..     90.0  " + EVIL,
        "the time allowed for the whole connection had passed",
        "attempts started, on either side: 8, 0.8 a connection",
    ):
        assert part in said
    assert "103 ms" in said
    assert "~103 ms" not in said


class Page(HTMLParser):
    """The tags and attributes of a page. What is to be closed must be, in order."""

    OPEN_ENDED = frozenset({"meta", "link", "br", "wbr"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [values[name] or "" for name in ("src", "href", "xlink:href", "action", "data") if name in values]
        if tag not in self.OPEN_ENDED:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.OPEN_ENDED:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_the_page_needs_nothing_else(directory: Path) -> None:
    content = page(findings(directory))
    seen = Page(content)
    assert not {"script", "img", "iframe", "object", "embed", "base"} & set(seen.tags)
    assert seen.links
    assert all(link == "data:," or link.startswith("#") for link in seen.links)
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", content))
    assert not re.search(r"\w://|@import", content)


def test_what_the_page_shows_of_the_tables_is_escaped(directory: Path) -> None:
    content = page(findings(directory))
    assert EVIL not in content
    assert content.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_the_ids_of_several_plots_differ(directory: Path) -> None:
    seen = Page(page(findings(directory)))
    assert len(seen.ids) == len(set(seen.ids)) > 10


def test_nothing_is_opened_on_the_network(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    class Watched(socket.socket):
        def __init__(self, *arguments: object, **named: object) -> None:
            opened.append(arguments)
            super().__init__(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Watched)
    socket.socket().close()
    assert len(opened) == 1
    found = findings(directory)
    assert page(found)
    assert draw(found)
    assert shown(directory)
    assert len(opened) == 1


def test_few_values_are_said_to_be_few(directory: Path) -> None:
    content = page(findings(directory))
    assert "<em>300 ms</em>" in content
    assert "<em>103 ms</em>" not in content
    assert "too few for a 95th percentile" in content


def test_bars_stay_on_their_line(directory: Path) -> None:
    slowest, *_ = findings(directory).slowest
    failed, won = time_line(slowest)
    assert (failed.left, failed.width, failed.times) == (pytest.approx(10 / 3), pytest.approx(80 / 3), "10 to 90 ms")
    assert (won.left, won.width, won.times) == (50, 50, "150 to ? ms")


@pytest.mark.parametrize(
    "connections",
    [
        [],
        [rows.direct(rows.started("d"))],
        [rows.relayed(rows.started("r"))],
        [rows.failed(rows.started("f"))],
        [replace(rows.direct(rows.started("z")), connect_ms=0.0, first_byte_ms=None)],
    ],
    ids=["none", "one direct", "one relayed", "one failed", "at once"],
)
def test_sweeps_of_hardly_anything(tmp_path: Path, connections: list[ConnectionRow]) -> None:
    found = findings(written(tmp_path, connections))
    assert Page(page(found)).tags.count("h1") == 1
    assert f"{len(connections)} connections" in shown(tmp_path)
    json.dumps(findings_values(found))
    assert draw(found).keys() <= PLOTS - {"success-by-plugin"}


def test_figures_are_svg_with_text_at_the_width_of_a_column(directory: Path) -> None:
    plots = draw(findings(directory))
    assert plots.keys() == PLOTS
    for name, svg in plots.items():
        root = ET.fromstring(svg)
        assert root.get("width") in {"252pt", "518.4pt"}, name
        assert list(root.iter("{http://www.w3.org/2000/svg}text")), name
    assert "turn, n = 1" in plots["connect-time"]
    assert "closed" in plots["nat-matrix"]
    assert "failed: deadline" in plots["failures"]


def test_the_same_findings_give_the_same_figures(directory: Path) -> None:
    found = findings(directory)
    assert draw(found, ["connect-time"]) == draw(found, ["connect-time"])


def test_a_dollar_is_no_formula(tmp_path: Path) -> None:
    made = replace(rows.direct(rows.started("d")), plugin=r"$\frac$")
    assert r"$\frac$, n = 1" in draw(findings(written(tmp_path, [made])))["connect-time"]
