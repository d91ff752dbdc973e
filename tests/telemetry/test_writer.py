"""Every connection that was started has exactly one row in the end, and readers read at any time."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import telemetry_rows as rows
from hypothesis import given, settings
from hypothesis import strategies as st

from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Reason
from warpfleet.core.errors import InputError
from warpfleet.telemetry import store
from warpfleet.telemetry.columns import SCHEMAS, STARTED_SCHEMA, TableName, to_batch
from warpfleet.telemetry.log import Log, RecordKind, read_log
from warpfleet.telemetry.lookup import find
from warpfleet.telemetry.records import AttemptRow, NatObservationRow
from warpfleet.telemetry.sweep import Sweep
from warpfleet.telemetry.writer import MIN_SEGMENT_AGE_S, TelemetryWriter, recover


def read(directory: Path, table: str, columns: str) -> list[tuple[object, ...]]:
    return duckdb.sql(f"select {columns} from '{directory}/{table}/*.parquet'").fetchall()


def abandon(writer: TelemetryWriter) -> None:
    """What a kill leaves behind: the files as they are, and no lock."""
    writer._lock.close()


def test_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    TelemetryWriter(tmp_path, rows.sweep())
    columns = {
        table: " ".join(
            row[0] for row in duckdb.sql(f"describe select * from '{tmp_path}/{table}/*.parquet'").fetchall()
        )
        for table in ("connections", "attempts", "nat_observations")
    }
    assert columns == {
        "connections": "sweep_id connection_id initiator responder repeat policy started_at outcome plugin phase "
        "transport af route_type local_endpoint remote_endpoint connect_ms first_byte_ms rtt_ms upgraded_ms "
        "initiator_nat responder_nat error reason",
        "attempts": "sweep_id connection_id attempt_id plugin phase transport af route_type side started_ms ended_ms "
        "outcome reason sockets packets_sent advice",
        "nat_observations": "sweep_id node observed_at external_ip mapping filtering port_assignment port_delta "
        "hairpin lifetime_s source confidence af packets_sent port_first port_last",
    }


def test_what_was_written_is_read(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    start = rows.started("c1")
    writer.started([start])
    writer.connections([rows.direct(start, connect_ms=12.5)])
    writer.attempts([rows.attempt("c1", "1", "tcp_punch", AttemptOutcome.WON, started_ms=1.5)])
    seen = NatObservationRow(sweep_id="s1", node="alice", observed_at=rows.NOW, source="stun", confidence=0.5)
    writer.observations([seen])
    writer.close(rows.NOW)
    values = "connection_id, outcome, connect_ms, upgraded_ms, epoch_us(started_at), typeof(started_at)"
    micros = 1767323045678901
    assert read(tmp_path, "connections", values) == [("c1", "direct", 12.5, None, micros, "TIMESTAMP WITH TIME ZONE")]
    assert read(tmp_path, "attempts", "attempt_id, started_ms, ended_ms, packets_sent") == [("1", 1.5, None, None)]
    assert read(tmp_path, "nat_observations", "node, mapping, hairpin, confidence") == [("alice", "unknown", None, 0.5)]
    assert Sweep.read(tmp_path).ended_at == rows.NOW
    assert not list((tmp_path / "log").iterdir())


def test_readers_see_the_segments_so_far(tmp_path: Path) -> None:
    now_s = 0.0
    writer = TelemetryWriter(tmp_path, rows.sweep(), clock=lambda: now_s)
    assert read(tmp_path, "connections", "count(*)") == [(0,)]
    writer.connections([rows.direct(rows.started("c1"))])
    assert read(tmp_path, "connections", "count(*)") == [(0,)]
    now_s = MIN_SEGMENT_AGE_S
    writer.connections([rows.direct(rows.started("c2"))])
    assert read(tmp_path, "connections", "count(*)") == [(2,)]
    writer.attempts([rows.attempt("c2", "1", "turn", AttemptOutcome.WON)])
    writer.flush()
    assert read(tmp_path, "attempts", "count(*)") == [(1,)]


def test_a_large_log_becomes_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_LOG_BYTES", 10_000)
    writer = TelemetryWriter(tmp_path, rows.sweep(), clock=lambda: 0.0)
    writer.started([rows.started("open")])
    for number in range(30):
        writer.connections([rows.direct(rows.started(f"c{number}"))])
    assert len(list((tmp_path / "connections").iterdir())) > 2
    abandon(writer)
    assert recover(tmp_path) == 1
    assert read(tmp_path, "connections", "count(distinct connection_id), count(*)") == [(31, 31)]


def test_the_first_row_of_a_connection_counts(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    start = rows.started("c1")
    writer.started([start])
    writer.connections([rows.direct(start), rows.failed(start)])
    writer.flush()
    writer.started([start])
    writer.connections([rows.failed(start)])
    writer.close(rows.NOW)
    assert read(tmp_path, "connections", "outcome") == [("direct",)]


def test_what_is_open_at_the_end_is_interrupted(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.started([rows.started("c1")])
    writer.close(rows.NOW)
    expected = [(ConnectionOutcome.CANCELLED.value, Reason.INTERRUPTED.value)]
    assert read(tmp_path, "connections", "outcome, reason") == expected


def test_who_takes_over_goes_on_and_knows_what_was_written(tmp_path: Path) -> None:
    first = TelemetryWriter(tmp_path, rows.sweep())
    first.started([rows.started("c1"), rows.started("c2")])
    offered = rows.attempt("c1", "1", "turn", AttemptOutcome.WON)
    first.attempts([offered])
    abandon(first)
    second = TelemetryWriter(tmp_path, first.sweep, take_over=True)
    assert sorted(second.open_ids) == ["c1", "c2"]
    second.attempts([offered, rows.attempt("c1", "2", "turn", AttemptOutcome.LOST)])
    second.connections([rows.direct(rows.started("c1"))])
    second.close(rows.NOW)
    assert sorted(read(tmp_path, "connections", "connection_id, outcome")) == [("c1", "direct"), ("c2", "cancelled")]
    assert sorted(read(tmp_path, "attempts", "attempt_id")) == [("1",), ("2",)]


@pytest.mark.parametrize("left_behind", ["segments", "log"])
def test_a_sweep_of_a_version_with_fewer_columns_is_read_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_behind: str
) -> None:
    with monkeypatch.context() as older:
        attempts = [field for field in SCHEMAS[TableName.ATTEMPTS] if field.name != "advice"]
        fewer = SCHEMAS | {TableName.ATTEMPTS: pa.schema(attempts)}
        older.setattr("warpfleet.telemetry.log.SCHEMAS", fewer)
        older.setattr("warpfleet.telemetry.segments.SCHEMAS", fewer)
        writer = TelemetryWriter(tmp_path, rows.sweep())
        writer.connections([rows.direct(rows.started("c1"))])
        writer.attempts([rows.attempt("c1", "1", "tcp_punch", AttemptOutcome.WON)])
        writer.close(rows.NOW) if left_behind == "segments" else abandon(writer)
    (attempt,) = recovered(tmp_path, "c1")
    assert attempt.advice is None
    writer = TelemetryWriter(tmp_path, rows.sweep(), resume=True)
    writer.connections([rows.direct(rows.started("c2", repeat=1))])
    writer.attempts([rows.attempt("c2", "2", "tcp_punch", AttemptOutcome.WON, advice="moved")])
    writer.close(rows.NOW)
    assert [a.advice for name in ("c1", "c2") for a in recovered(tmp_path, name)] == [None, "moved"]


def recovered(directory: Path, connection: str) -> tuple[AttemptRow, ...]:
    """A connection's attempts, as `explain` finds them."""
    recover(directory)
    return find(directory, connection).attempts


def copy_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], where: Path) -> int:
    """Copies of the directory as a kill at each rename, creation of a log and removal of a file would leave it."""
    count = 0

    def then_copy(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count
            for moment in ("before", "after"):
                if moment == "after":
                    result = method(*arguments, **named)
                shutil.copytree(where, tmp_path / f"copy-{count}")
                count += 1
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, then_copy(getattr(Path, name)))
        patch.setattr(Log, "append", then_copy(Log.append))
        work()
    return count


@pytest.mark.parametrize("work", ["close", "flush", "recover"])
def test_a_kill_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    where = tmp_path / "sweep"
    writer = TelemetryWriter(where, rows.sweep(), clock=lambda: 0.0)
    writer.started([rows.started("c1"), rows.started("c2")])
    writer.flush()
    writer.connections([rows.direct(rows.started("c1"))])
    writer.attempts([rows.attempt("c1", "1", "turn", AttemptOutcome.WON)])
    if work == "recover":
        abandon(writer)
    steps = {"close": lambda: writer.close(rows.NOW), "flush": writer.flush, "recover": lambda: recover(where)}
    count = copy_at_every_step(tmp_path, monkeypatch, lambda: (steps[work](), None)[1], where)
    assert count >= 6
    for number in range(count):
        copy = tmp_path / f"copy-{number}"
        recover(copy)
        found = sorted(read(copy, "connections", "connection_id, outcome"))
        assert found == [("c1", "direct"), ("c2", "cancelled")], number
        assert read(copy, "attempts", "attempt_id") == [("1",)], number
        assert recover(copy) == 0


@pytest.mark.parametrize("lines", [1, 40, 333])
def test_a_killed_process_loses_nothing_acknowledged(tmp_path: Path, lines: int) -> None:
    said: list[tuple[str, str]] = []
    directory = tmp_path / "sweep"
    for run in range(2):  # the second one takes up what the first left
        command = [sys.executable, str(Path(__file__).with_name("killed_writer.py")), str(directory), str(run)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            said += [tuple(process.stdout.readline().split()) for _ in range(lines)]
            process.kill()
            said += [tuple(line.split()) for line in process.stdout if line.endswith("\n")]
    recover(directory)
    assert recover(directory) == 0
    found = read(directory, "connections", "connection_id, outcome")
    assert set(Counter(name for name, _ in found).values()) == {1}
    assert {name for what, name in said if what != "attempt"} <= {name for name, _ in found}
    assert {name for what, name in said if what == "ended"} <= {name for name, outcome in found if outcome == "direct"}
    attempts = Counter(name for (name,) in read(directory, "attempts", "connection_id"))
    assert {name for what, name in said if what == "attempt"} <= attempts.keys()
    assert set(attempts.values()) <= {1}


@settings(max_examples=60)
@given(st.data())
def test_a_torn_log_gives_its_whole_records(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("torn") / "1.log"
    log = Log(path)
    ends = []
    for number in range(4):
        log.append(RecordKind.STARTED, to_batch([rows.started(f"c{number}")], STARTED_SCHEMA))
        ends.append(log.size_bytes)
    log.close()
    size = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, size)
    found = [batch.to_pylist()[0]["connection_id"] for _, batch in read_log(path)]
    assert found == [f"c{number}" for number, end in enumerate(ends) if end <= size]


@given(st.integers(0, 7), st.integers(min_value=0))
def test_a_damaged_last_record_is_left_out(tmp_path_factory: pytest.TempPathFactory, bit: int, position: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "1.log"
    log = Log(path)
    log.append(RecordKind.STARTED, to_batch([rows.started("c0")], STARTED_SCHEMA))
    first_bytes = log.size_bytes
    log.append(RecordKind.STARTED, to_batch([rows.started("c1")], STARTED_SCHEMA))
    log.close()
    content = bytearray(path.read_bytes())
    content[first_bytes + position % (len(content) - first_bytes)] ^= 1 << bit
    path.write_bytes(content)
    assert [batch.to_pylist()[0]["connection_id"] for _, batch in read_log(path)] == ["c0"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = TelemetryWriter(tmp_path, rows.sweep())
    writer.started([rows.started("c1")])
    with pytest.raises(InputError, match=f"process {os.getpid()} is writing"):
        TelemetryWriter(tmp_path, rows.sweep(), resume=True)
    assert recover(tmp_path) == 0
    writer.close(rows.NOW)
    assert read(tmp_path, "connections", "count(*)") == [(1,)]


def test_a_sweep_is_not_written_over(tmp_path: Path) -> None:
    TelemetryWriter(tmp_path, rows.sweep()).close(rows.NOW)
    with pytest.raises(InputError, match="holds a sweep already; give --resume"):
        TelemetryWriter(tmp_path, rows.sweep())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "seed was 7 and is now 8"),
        ({"policy": "staggered"}, "policy was strict and is now staggered"),
        ({"fleet": {"nodes": [{"name": "carol"}]}}, r"fleet\.nodes\[0\]\.name was alice and is now carol"),
        ({"arguments": {"pairs": "random:3"}}, r"arguments\.pairs was all and is now random:3"),
    ],
)
def test_another_plan_does_not_resume(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    TelemetryWriter(tmp_path, rows.sweep()).close(rows.NOW)
    with pytest.raises(InputError, match=message):
        TelemetryWriter(tmp_path, rows.sweep(**changes), resume=True)


def test_the_same_plan_resumes_under_its_first_id(tmp_path: Path) -> None:
    TelemetryWriter(tmp_path, rows.sweep()).close(rows.NOW)
    again = rows.sweep(sweep_id="s2", arguments={"pairs": "all", "concurrency": 99})
    writer = TelemetryWriter(tmp_path, again, resume=True)
    assert writer.sweep.sweep_id == "s1"
    assert Sweep.read(tmp_path).ended_at is None


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: not a directory; give another --out"):
        TelemetryWriter(tmp_path / "file" / "sweep", rows.sweep())


def test_where_there_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no sweep"):
        recover(tmp_path)
