"""`down` leaves nothing, whatever had been killed before; a failed `up` leaves nothing either."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warpfleet.configs.topology import Topology
from warpfleet.core.errors import InputError, MissingError
from warpfleet.lab import laboratory, netns, processes, servers
from warpfleet.lab.processes import Owned
from warpfleet.lab.rootless import state_dir

pytestmark = pytest.mark.lab

NAME = "lifecycle"
TOPOLOGY = Topology.model_validate(
    {
        "version": 1,
        "name": NAME,
        "hosts": [{"name": "one", "nat": "full_cone", "delay_ms": 5}, {"name": "two", "nat": "public"}],
    }
)


@pytest.fixture(autouse=True)
def _clear_away() -> Iterator[None]:
    yield
    if NAME in laboratory.names():
        laboratory.down(NAME)


def assert_nothing_left(running: list[Owned]) -> None:
    assert netns.existing(f"wf.{NAME}.") == []
    assert not (state_dir() / NAME).exists()
    assert not [process for process in running if process.alive]
    assert NAME not in laboratory.names()


def test_down_leaves_nothing() -> None:
    lab = laboratory.up(TOPOLOGY)
    running = lab.processes
    assert {process.role for process in running} >= {"mosquitto", "coturn", "chronyd"}
    assert all(process.alive for process in running)
    laboratory.down(NAME)
    assert_nothing_left(running)


def test_down_after_everything_was_killed() -> None:
    running = laboratory.up(TOPOLOGY).processes
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
    laboratory.down(NAME)
    assert_nothing_left(running)


def test_down_finds_processes_that_no_file_names() -> None:
    lab = laboratory.up(TOPOLOGY)
    running = lab.processes
    for path in lab.folder.iterdir():
        path.unlink()
    lab.folder.rmdir()
    with netns.inside(lab.netns("one")):
        stray = subprocess.Popen(["sleep", "100"])
    stray_process = processes.owned("stray", stray.pid)
    assert stray_process is not None
    laboratory.down(NAME)
    assert stray.wait(1) == -signal.SIGTERM
    assert_nothing_left([*running, stray_process])


def test_a_reused_process_id_is_left_alone() -> None:
    lab = laboratory.up(TOPOLOGY)
    innocent = subprocess.Popen(["sleep", "100"])
    try:
        record = lab.folder / "processes.json"
        text = record.read_text()
        victim = lab.processes[0]
        record.write_text(text.replace(f'"pid": {victim.pid}', f'"pid": {innocent.pid}'))
        laboratory.down(NAME)
        assert innocent.poll() is None
        assert_nothing_left([victim])
    finally:
        innocent.kill()
        innocent.wait()


def test_up_twice_is_an_error_and_harms_nothing() -> None:
    lab = laboratory.up(TOPOLOGY)
    with pytest.raises(InputError, match=r"is up already.*lab down lifecycle"):
        laboratory.up(TOPOLOGY)
    assert all(process.alive for process in lab.processes)


def test_up_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Owned] = []

    def mute(_: object, running: list[Owned], __: Path) -> None:
        started.extend(running)
        raise MissingError("it does not answer")

    monkeypatch.setattr(servers, "await_answers", mute)
    with pytest.raises(MissingError, match="does not answer"):
        laboratory.up(TOPOLOGY)
    assert started
    assert_nothing_left(started)


@pytest.mark.parametrize("moment", ["hosts", "servers"])
def test_up_that_was_killed_is_cleared_away_by_the_next(moment: str, tmp_path: Path) -> None:
    topology = tmp_path / "topology.json"
    topology.write_text(TOPOLOGY.model_dump_json())
    program = (
        "import os, pathlib; from warpfleet.configs.topology import Topology; from warpfleet.lab import laboratory;"
        f"t = Topology.model_validate_json(pathlib.Path({str(topology)!r}).read_text());"
        f"laboratory.up(t, progress=lambda text: os.kill(os.getpid(), 9) if {moment!r} in text else None)"
    )
    killed = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert NAME in laboratory.names()
    lab = laboratory.up(TOPOLOGY)
    running = lab.processes
    assert all(process.alive for process in running)
    laboratory.down(NAME)
    assert_nothing_left(running)


def test_half_made_is_taken_down() -> None:
    netns.batch([f"netns add wf.{NAME}.one"])
    assert laboratory.listed()[NAME] is None
    laboratory.down(NAME)
    assert_nothing_left([])


def test_down_of_nothing_names_what_is_up() -> None:
    with pytest.raises(InputError, match="no laboratory 'absent'"):
        laboratory.down("absent")
