"""The record of the cluster that stays: there for as long as its process lives, and no longer."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from warpfleet.cluster.running import RunningCluster, as_running, find_running, own_network
from warpfleet.core.errors import InputError

STAYS = """
import sys
from dataclasses import replace
from pathlib import Path
from warpfleet.cluster.running import as_running
with as_running(Path(sys.argv[1])):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_it_is_found_while_it_runs_and_there_is_one_at_a_time(tmp_path: Path) -> None:
    assert find_running() is None
    with as_running(tmp_path / "folder") as ready:
        starting = RunningCluster(os.getpid(), os.getppid(), str(tmp_path / "folder"), own_network())
        assert find_running() == starting
        ready()
        assert find_running() == replace(starting, ready=True)
        with pytest.raises(InputError, match="warpfleet cluster down"), as_running(tmp_path / "other"):
            pass
    assert find_running() is None


def test_one_that_was_killed_is_not_found_and_its_folder_goes_with_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", STAYS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        assert find_running() is not None
        process.kill()
        process.wait(10)
    assert find_running() is None
    with as_running(tmp_path / "next"):
        assert not folder.exists()


def test_the_record_is_for_the_user_alone(tmp_path: Path) -> None:
    with as_running(tmp_path):
        (record,) = (tmp_path / "state" / "warpfleet").iterdir()
        assert record.stat().st_mode & 0o777 == 0o600
        assert record.parent.stat().st_mode & 0o777 == 0o700
