"""The guard: whatever becomes of the work, its descendants and its folder go."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

GUARDED = """
import os, subprocess, sys
from pathlib import Path
from warpfleet.cluster.guard import guarded

def work():
    orphan = subprocess.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True).stdout
    print(os.getpid(), orphan.strip(), flush=True)
    sys.stdin.read()
    return 5

sys.exit(guarded(work, Path(sys.argv[1])))
"""


@pytest.mark.parametrize("end", ["its input ends", "the work is killed", "the guard is asked to end"])
def test_nothing_is_left(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as guard:
        assert guard.stdin
        assert guard.stdout
        worker, orphan = (psutil.Process(int(pid)) for pid in guard.stdout.readline().split())
        if end == "its input ends":
            guard.stdin.close()
        else:
            os.kill(worker.pid if end == "the work is killed" else guard.pid, signal.SIGKILL if "killed" in end else 15)
        assert guard.wait(30) == {"its input ends": 5, "the work is killed": -9 % 256}.get(end, -15 % 256)
    assert not worker.is_running()
    assert not orphan.is_running()
    assert not folder.exists()
