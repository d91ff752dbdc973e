"""A fleet file over namespaces and servers that this program did not make."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.ray, pytest.mark.timeout(200)]

WARPFLEET = str(Path(sys.executable).with_name("warpfleet"))
HUB, LEFT, RIGHT = "wftest-f-hub", "wftest-f-left", "wftest-f-right"
FLEET = """\
version: 1
name: foreign
services:
  mqtt: ["mqtt://203.0.113.1:1883"]
  stun: ["203.0.113.1:3478"]
  turn:
    - {url: "turn:203.0.113.1:3478?transport=udp", username: u, password: swordfish}
nodes:
  - {name: left, vantage: {netns: wftest-f-left}, listen: [443]}
  - {name: right, vantage: {netns: wftest-f-right}}
"""
TURN = """\
listening-ip=203.0.113.1
listening-port=3478
realm=example.net
lt-cred-mech
user=u:swordfish
no-tls
no-dtls
no-cli
log-file=/dev/null
simple-log
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def await_port(is_open: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not is_open():
        assert time.monotonic() < end_s, "the server does not answer"


def answers(port: int) -> bool:
    code = f"import socket; socket.create_connection(('203.0.113.1', {port}), 1)"
    return (
        subprocess.run(
            ["ip", "netns", "exec", LEFT, sys.executable, "-c", code], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """A hub and two hosts, wired by hand, with a mosquitto and a coturn started by hand; the fleet file."""
    with ExitStack() as undo:
        for name in (HUB, LEFT, RIGHT):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", HUB, "link", "add", "br0", "type", "bridge")
        ip("-n", HUB, "addr", "add", "203.0.113.1/24", "dev", "br0")
        ip("-n", HUB, "link", "set", "br0", "up")
        for name, address in ((LEFT, "203.0.113.2/24"), (RIGHT, "203.0.113.3/24")):
            port = name.removeprefix("wftest-f-")
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", HUB)
            ip("-n", HUB, "link", "set", port, "master", "br0", "up")
            ip("-n", name, "addr", "add", address, "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        (tmp_path / "mosquitto.conf").write_text("listener 1883 203.0.113.1\nallow_anonymous true\nuser root\n")
        (tmp_path / "turn.conf").write_text(TURN)
        for command in (["mosquitto", "-c", "mosquitto.conf"], ["turnserver", "-c", "turn.conf"]):
            command[0] = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin") or command[0]
            server = subprocess.Popen(
                ["ip", "netns", "exec", HUB, *command],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            undo.callback(server.wait, 10)
            undo.callback(server.kill)
        await_port(lambda: answers(1883) and answers(3478))
        fleet = tmp_path / "fleet.yaml"
        fleet.write_text(FLEET)
        yield fleet


def test_it_works_just_the_same(foreign: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [WARPFLEET, "sweep", str(foreign), "--out", str(tmp_path / "out"), "--json"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"direct": 2, "relayed": 0, "failed": 0, "cancelled": 0, "error": 0}
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"swordfish" not in written + done.stderr.encode() + done.stdout.encode()
