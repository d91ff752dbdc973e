"""A cluster that stays: launched, used by several commands, and taken down without a trace."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from warpfleet.configs.topology import find_topology
from warpfleet.lab.laboratory import Lab, laboratory

pytestmark = [pytest.mark.lab, pytest.mark.ray, pytest.mark.timeout(300)]

WARPFLEET = str(Path(sys.executable).with_name("warpfleet"))


@pytest.fixture(scope="module")
def cgn() -> Iterator[Lab]:
    with laboratory(find_topology("cgn"), name="wftest-stays") as lab:
        yield lab


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="wft") as folder:  # short: Ray's sockets are deep below it
        yield os.environ | {"XDG_STATE_HOME": str(Path(folder) / "state"), "TMPDIR": folder}


def run(environment: dict[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [WARPFLEET, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def listening_elsewhere(family: list[psutil.Process]) -> set[str]:
    addresses = set()
    for process in family:
        with suppress(psutil.NoSuchProcess):  # Ray starts and ends workers as it likes
            sockets = process.net_connections("tcp")
            addresses |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    assert addresses
    return addresses - {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_what_there_is_not_is_said_in_a_line(environment: dict[str, str]) -> None:
    for arguments, status in ((("status",), 3), (("down",), 3), (("launch", "nowhere.yaml"), 2)):
        done = run(environment, "cluster", *arguments)
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_it_is_launched_used_and_taken_down(cgn: Lab, environment: dict[str, str], tmp_path: Path) -> None:
    launched = run(environment, "cluster", "launch", cgn.fleet_path)
    assert launched.returncode == 0, launched.stderr
    try:
        status = json.loads(run(environment, "cluster", "status", "--json").stdout)
        names = [node["name"] for node in status["nodes"]]
        assert (status["fleet"], len(names), status["jobs"]) == ("wftest-stays", 5, [])
        assert {actor["role"] for actor in status["actors"]} >= {"coordinator", "signal", "telemetry", "observatory"}
        assert all(actor["alive"] and actor["memory_mib"] > 1 for actor in status["actors"])
        daemon = psutil.Process(status["pid"])
        family = [daemon.parent(), daemon, *daemon.children(recursive=True)]
        assert listening_elsewhere(family[1:]) == set()

        again = run(environment, "cluster", "launch", cgn.fleet_path)
        assert (again.returncode, "cluster down" in again.stderr) == (2, True)
        connected = run(environment, "connect", cgn.fleet_path, names[0], names[1], "--json")
        assert (connected.returncode, connected.stderr) == (0, ""), "no Ray of its own was started"
        assert json.loads(connected.stdout)["outcome"] == "direct"
        for out in (tmp_path / "one", tmp_path / "two"):
            swept = run(environment, "sweep", cgn.fleet_path, "--out", out, "--json")
            assert (swept.returncode, "starting Ray" in swept.stderr) == (0, False), swept.stderr
            assert json.loads(swept.stdout)["outcomes"]["direct"] == 20
        assert "wftest-stays" in run(environment, "cluster", "status").stdout
    finally:
        down = run(environment, "cluster", "down")
    assert down.returncode == 0, down.stderr
    _, alive = psutil.wait_procs([process for process in family if process], timeout=30)
    assert alive == []
    assert list(Path(environment["TMPDIR"]).glob("warpfleet-*")) == []


def test_a_killed_daemon_leaves_nothing(environment: dict[str, str]) -> None:
    assert run(environment, "cluster", "launch").returncode == 0
    status = json.loads(run(environment, "cluster", "status", "--json").stdout)
    assert (status["fleet"], status["nodes"]) == (None, [])
    daemon = psutil.Process(status["pid"])
    family = [daemon.parent(), *daemon.children(recursive=True)]
    os.kill(daemon.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs([process for process in family if process], timeout=30)
    assert alive == []
    assert list(Path(environment["TMPDIR"]).glob("warpfleet-*")) == []
    assert run(environment, "cluster", "status").returncode == 3
