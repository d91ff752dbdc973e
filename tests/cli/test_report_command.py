"""`warpfleet report` as a user runs it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from warpfleet.core.combo import ConnectionOutcome, Phase, Policy, Transport
from warpfleet.telemetry.records import ConnectionRow
from warpfleet.telemetry.sweep import Sweep
from warpfleet.telemetry.writer import TelemetryWriter

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    plan = {"fleet": {"name": "pair", "nodes": []}, "policy": Policy.STRICT, "seed": 7, "arguments": {}}
    writer = TelemetryWriter(tmp_path / "sweep", Sweep(sweep_id="s1", started_at=NOW, **plan))
    row = ConnectionRow(
        sweep_id="s1",
        connection_id="c1",
        initiator="alice",
        responder="bob",
        repeat=0,
        policy=Policy.STRICT,
        started_at=NOW,
        outcome=ConnectionOutcome.DIRECT,
        plugin="tcp_punch",
        phase=Phase.PUNCH,
        transport=Transport.TCP,
        af=4,
        connect_ms=100.0,
        first_byte_ms=180.0,
    )
    writer.connections([row])
    writer.close(NOW)
    return tmp_path / "sweep"


def report(*arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("warpfleet")), "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd)


def assert_one_line(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line


def test_text_goes_to_stdout(directory: Path) -> None:
    done = report(directory)
    assert done.returncode == 0, done.stderr
    assert "1 connections: 1 direct" in done.stdout
    assert done.stderr == ""


def test_values_go_to_stdout_alone(directory: Path, tmp_path: Path) -> None:
    done = report(directory, "--json", "--html", tmp_path / "page.html")
    assert json.loads(done.stdout)["connected"]["n"] == 1
    assert str(tmp_path / "page.html") in done.stderr


def test_a_page_and_figures_are_written(directory: Path, tmp_path: Path) -> None:
    done = report(directory, "--html", tmp_path / "new" / "page.html", "--figures", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"connect-time.svg", "first-byte-time.svg", "nat-matrix.svg", "success-by-nat.svg"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_page_is_replaced_whole(directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    page.chmod(0o400)  # renaming replaces it all the same
    with page.open() as reader:
        assert report(directory, "--html", page).returncode == 0
        assert reader.read() == "old"
    assert page.read_text().startswith("<!doctype html>")


def test_a_name_without_a_folder(directory: Path, tmp_path: Path) -> None:
    assert report(directory, "--html", "page.html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "page.html").exists()


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    assert_one_line(report(tmp_path), str(tmp_path), "holds no sweep", "give a sweep's --out")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert_one_line(report(tmp_path / "none"), str(tmp_path / "none"), "holds no sweep")


def test_tables_that_are_none(directory: Path) -> None:
    (directory / "connections" / "00000009.parquet").write_text("nonsense")
    assert_one_line(report(directory), str(directory), "cannot be read")


@pytest.mark.parametrize("option", ["--html", "--figures"])
def test_where_nothing_can_be_written(directory: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(
        report(directory, option, tmp_path / "file" / "out"), str(tmp_path / "file" / "out"), f"another {option}"
    )


def test_a_folder_in_the_place_of_the_page(directory: Path, tmp_path: Path) -> None:
    for name in (tmp_path, "."):
        assert_one_line(report(directory, "--html", name), str(name), "is a directory", "another --html")
