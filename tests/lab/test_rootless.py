"""A laboratory in the namespaces that an ordinary user may make: made, joined by a second command, and gone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from warpfleet.lab import netns

# Runs as somebody without privilege would: the only thing that root cannot be made to lack is its user id.
PROGRAM = """
import sys
from warpfleet.configs.topology import Topology
from warpfleet.lab import laboratory, rootless
rootless._capable = lambda: False
rootless.ensure_privilege([sys.executable, "-c", sys.argv[1], *sys.argv[1:]])
nat = {"preset": "full_cone", "port_mapping": ["pcp", "upnp"]}
hosts = [{"name": "one", "nat": nat, "delay_ms": 5}]
if sys.argv[2] == "up":
    lab = laboratory.up(Topology.model_validate({"version": 1, "name": "rootless", "hosts": hosts}))
    print(lab.fleet_path)
elif sys.argv[2] == "list":
    print(*laboratory.names())
else:
    laboratory.down("rootless")
"""


def user_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, timeout=10, check=False).returncode == 0


def command(what: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, PROGRAM, what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.lab
@pytest.mark.skipif(not user_namespaces(), reason="this kernel gives users no namespaces")
def test_up_list_and_down_without_root(tmp_path: Path) -> None:
    state = tmp_path / "warpfleet" / "rootless"
    before = netns.existing("wf.rootless.")
    fleet = Path(command("up", tmp_path))
    try:
        assert fleet.is_relative_to(state)
        assert fleet.stat().st_mode & 0o077 == 0
        assert command("list", tmp_path) == "rootless"
        assert netns.existing("wf.rootless.") == before == []
    finally:
        command("down", tmp_path)
    assert not state.exists()
