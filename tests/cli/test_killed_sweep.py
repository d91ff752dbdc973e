"""A sweep that is interrupted or killed: nothing of it is left running, no row is lost, and `--resume` completes it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psutil
import pytest

from warpfleet.configs.topology import find_topology
from warpfleet.lab.laboratory import Lab, laboratory, names

pytestmark = [pytest.mark.lab, pytest.mark.ray, pytest.mark.timeout(300)]

WARPFLEET = str(Path(sys.executable).with_name("warpfleet"))
DEADLINE_S = 90.0
REPEATS = "3"
GOOD = ("direct", "relayed")
CGN, LAB = find_topology("cgn"), "wftest-killed"


def start(lab: Lab, out: Path, *options: str) -> "subprocess.Popen[str]":
    """A sweep of many connections in the background, as soon as some more of them have ended."""
    before = rows(out)
    command = [WARPFLEET, "sweep", str(lab.fleet_path), "--out", str(out), "--repeat", REPEATS, "--seed", "7", *options]
    sweep = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end_s = time.monotonic() + DEADLINE_S
    while len(rows(out)) <= len(before):
        assert sweep.poll() is None, sweep.communicate()[1]
        assert time.monotonic() < end_s
        psutil.cpu_percent(interval=0.1)  # a look at the machine that takes a while: there is no event to wait for
    return sweep


def rows(out: Path) -> list[tuple[str, str, str, int]]:
    if not list((out / "connections").glob("*.parquet")):
        return []
    query = "select connection_id, outcome, initiator || ':' || responder, repeat from read_parquet(?)"
    return duckdb.execute(query, [str(out / "connections" / "*.parquet")]).fetchall()


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


def resume(lab: Lab, out: Path) -> dict[str, object]:
    command = [WARPFLEET, "sweep", str(lab.fleet_path), "--out", str(out), "--repeat", REPEATS, "--resume", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


def assert_refuses_another_plan(lab: Lab, out: Path) -> None:
    command = [WARPFLEET, "sweep", str(lab.fleet_path), "--out", str(out), "--repeat", "7", "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, "repeat" in done.stderr) == (2, True), done.stderr


def assert_complete(out: Path) -> None:
    """Every trial connected exactly once, and no connection has two rows."""
    found = rows(out)
    assert len({connection for connection, *_ in found}) == len(found)
    connected = [(pair, repeat) for _, outcome, pair, repeat in found if outcome in GOOD]
    assert len(connected) == len(set(connected)) == 5 * 4 * int(REPEATS)


def test_interrupted_and_then_killed_it_leaves_nothing_running_and_loses_no_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with laboratory(CGN, name=LAB) as lab:
        sweep = start(lab, out)
        children = descendants(sweep)
        os.killpg(sweep.pid, signal.SIGINT)
        _, complaint = sweep.communicate(timeout=60)
        assert sweep.returncode == 130, complaint
        assert "Traceback" not in complaint
        assert_gone(children)
        interrupted = rows(out)
        assert any(outcome in GOOD for _, outcome, *_ in interrupted)
        assert_refuses_another_plan(lab, out)

        sweep = start(lab, out, "--resume")
        children = descendants(sweep)
        assert children
        sweep.kill()
        sweep.wait(10)
    assert LAB not in names(), "a laboratory can be taken down while a killed sweep is barely gone"
    assert_gone(children)
    visible = {row[0] for row in rows(out)} - {row[0] for row in interrupted}
    explained = subprocess.run(
        [WARPFLEET, "explain", str(out), visible.copy().pop()], capture_output=True, text=True, check=False
    )
    assert explained.returncode == 0, explained.stderr
    recovered = {row[0]: row[1] for row in rows(out) if row not in interrupted}
    assert visible <= recovered.keys()
    assert "cancelled" in recovered.values(), "what was in flight has its row"

    with laboratory(CGN, name=LAB) as lab:
        resume(lab, out)
    assert_complete(out)
    assert {row[0] for row in interrupted} | recovered.keys() <= {row[0] for row in rows(out)}
