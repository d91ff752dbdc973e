"""`warpfleet pipe` between two nodes on loopback, with nothing but what the command brings itself."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WARPFLEET = str(Path(sys.executable).with_name("warpfleet"))
FLEET = """\
version: 1
name: pair
nodes:
  - {name: alice, vantage: {address: 127.0.0.1}}
  - {name: bob, vantage: {address: 127.0.0.1}}
"""
END_S = 30.0


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


@contextmanager
def pipe(*words: object) -> Iterator["subprocess.Popen[bytes]"]:
    command = [WARPFLEET, "pipe", *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def test_what_comes_in_goes_out_and_its_end_ends_the_command(fleet: Path) -> None:
    data = secrets.token_bytes(3_000_000)
    with pipe(fleet, "alice", "bob") as running:
        out, err = running.communicate(data, timeout=END_S)
    assert out == data
    assert running.returncode == 0
    [line] = err.decode().splitlines()
    assert line.startswith("pipe: alice -> bob over ")


def test_files_are_as_good_as_pipes(fleet: Path, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(secrets.token_bytes(300_000))
    with source.open("rb") as given, copy.open("wb") as taken:
        subprocess.run([WARPFLEET, "pipe", fleet, "alice", "bob"], stdin=given, stdout=taken, timeout=END_S, check=True)
    assert copy.read_bytes() == source.read_bytes()


def test_it_ends_as_nc_does_when_nobody_reads_any_more(fleet: Path) -> None:
    with pipe(fleet, "alice", "bob") as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        running.stdin.write(b"hello")
        running.stdin.flush()
        assert running.stdout.read(5) == b"hello"
        running.stdout.close()
        running.stdin.write(b"more")
        running.stdin.flush()
        assert running.wait(END_S) == 128 + signal.SIGPIPE
        assert b"Traceback" not in running.stderr.read()


def test_it_ends_at_once_when_it_is_interrupted_although_nothing_comes_in(fleet: Path) -> None:
    with pipe(fleet, "alice", "bob") as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        running.stdin.write(b"hello")
        running.stdin.flush()
        assert running.stdout.read(5) == b"hello"
        running.send_signal(signal.SIGINT)
        assert running.wait(END_S) == 128 + signal.SIGINT
        assert len(running.stderr.read().splitlines()) == 1


def test_no_way_is_one_line_and_status_1(fleet: Path) -> None:
    with pipe(fleet, "alice", "bob", "--only", "turn") as running:
        out, err = running.communicate(timeout=END_S)
    assert (running.returncode, out) == (1, b"")
    [line] = err.decode().splitlines()
    assert line.startswith("warpfleet: alice -> bob: ")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("pipe", ["alice"], "give two nodes"),
        ("pipe", ["FLEET", "alice"], "is a file: give two nodes behind it"),
        ("pipe", ["FLEET", "FLEET", "alice", "bob"], "give one fleet file"),
        ("pipe", ["FLEET", "alice", "bop"], "did you mean 'bob'?"),
        ("pipe", ["FLEET", "alice", "alice"], "cannot be connected with itself"),
        ("pipe", ["alice", "bob"], "no cluster is up here"),
        ("forward", ["alice", "bob"], "give two nodes"),
        ("forward", ["FLEET", "alice", "bob", "80"], "write it like 8080:127.0.0.1:80"),
        ("forward", ["FLEET", "alice", "bob", "0:127.0.0.1:22"], 'add "127.0.0.1:22" to `forward` of its entry'),
    ],
)
def test_what_is_wrong_with_the_words_is_said(
    command: str, words: list[str], said: str, fleet: Path, tmp_path: Path
) -> None:
    given = [str(fleet) if word == "FLEET" else word for word in words]
    nowhere = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([WARPFLEET, command, *given], capture_output=True, text=True, env=nowhere, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert said in line
