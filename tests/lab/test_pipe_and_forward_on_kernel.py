"""`warpfleet pipe` and `warpfleet forward` through real NATs."""

import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from warpfleet.lab.laboratory import Lab

pytestmark = pytest.mark.lab

WARPFLEET = str(Path(sys.executable).with_name("warpfleet"))
DEADLINE_S = 15.0
DATA = secrets.token_bytes(300_000)


def test_bytes_get_through_two_nats_over_udp(lab: Lab) -> None:
    command = [WARPFLEET, "pipe", str(lab.fleet_path), "port_restricted", "full_cone", "--only", "udp_punch"]
    done = subprocess.run(command, input=DATA, capture_output=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == DATA
    assert b"pipe: port_restricted -> full_cone over udp: " in done.stderr


def all_of(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(65_536):
        data += more
    return data


def say_back(listener: socket.socket) -> None:
    """Of each connection all that was read, once it has ended."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(all_of(connection))


@contextmanager
def forwarding(fleet: Path, destination: str) -> Iterator[tuple[tuple[str, int], "subprocess.Popen[str]"]]:
    command = [WARPFLEET, "forward", str(fleet), "full_cone", "port_restricted", f"0:{destination}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout
            found = re.fullmatch(r"(127\.0\.0\.1):(\d+)\n", running.stdout.readline())
            assert found, running.stderr and running.stderr.read()
            yield (found[1], int(found[2])), running
        finally:
            running.kill()


def test_a_port_beside_the_peer_is_reached_where_its_configuration_permits_it(
    lab: Lab, bench: Any, tmp_path: Path
) -> None:
    beside, silent = (bench.tcp("port_restricted", "127.0.0.1") for _ in range(2))
    beside.listen()
    beside.settimeout(None)
    permitted, unheard = (place.getsockname()[1] for place in (beside, silent))
    fleet = yaml.safe_load(lab.fleet_path.read_text(encoding="utf-8"))
    for node in fleet["nodes"]:
        if node["name"] == "port_restricted":
            node["forward"] = [f"127.0.0.1:{permitted}", f"127.0.0.1:{unheard}"]
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    echoing = threading.Thread(target=say_back, args=[beside], daemon=True)
    echoing.start()
    with forwarding(path, f"127.0.0.1:{permitted}") as (local, running):
        with socket.create_connection(local, DEADLINE_S) as here:
            here.sendall(DATA)
            here.shutdown(socket.SHUT_WR)
            assert all_of(here) == DATA
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE_S) == 130
    with forwarding(path, f"127.0.0.1:{unheard}") as (local, running):
        assert running.stderr
        assert running.stderr.readline().startswith("forward: ")
        with socket.create_connection(local, DEADLINE_S) as here, pytest.raises(ConnectionResetError):
            here.recv(1)
        assert "nothing listens there" in running.stderr.readline()
    beside.shutdown(socket.SHUT_RDWR)
    echoing.join(DEADLINE_S)
