"""What a user meets who gets something wrong: one clear line on stderr, the contract's exit status, nothing left."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

FLEET = """\
version: 1
name: pair
nodes:
  - {{name: alice{alice}}}
  - {{name: {bob}}}
"""


def warpfleet(*arguments: str | Path, timeout_s: float = 100, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user would."""
    command = [str(Path(sys.executable).with_name("warpfleet")), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, **environment}
    )


def fleet(folder: Path, text: str = "", *, alice: str = "", bob: str = "bob") -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text or FLEET.format(alice=alice, bob=bob))
    return path


def assert_one_line(done: "subprocess.CompletedProcess[str]", status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_an_unknown_key_names_file_line_and_the_nearest_key(tmp_path: Path) -> None:
    path = fleet(tmp_path, alice=", vantag: {netns: a}")
    done = warpfleet("sweep", path, "--out", tmp_path / "out")
    assert_one_line(done, 2, "fleet.yaml:4", "vantag", "vantage")
    assert not (tmp_path / "out").exists()


def test_two_nodes_of_one_name(tmp_path: Path) -> None:
    assert_one_line(warpfleet("sweep", fleet(tmp_path, bob="alice"), "--out", tmp_path / "out"), 2, "alice", "rename")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["conect"], ("conect", "connect", "--help")),
        (["connect", "fleet.yaml"], ("connect", "A", "--help")),
        (["sweep", "--concurrency", "many"], ("sweep", "--concurrency", "--help")),
        (["sweep", "--no-such"], ("--no-such",)),
    ],
)
def test_arguments_that_the_command_line_does_not_have(arguments: list[str], words: tuple[str, ...]) -> None:
    assert_one_line(warpfleet(*arguments), 2, *words)


def test_a_fleet_file_that_is_not_there(tmp_path: Path) -> None:
    assert_one_line(warpfleet("nat", tmp_path / "none.yaml"), 2, "none.yaml")


def test_a_namespace_that_is_not_there(tmp_path: Path) -> None:
    path = fleet(tmp_path, alice=", vantage: {netns: wftest-none}")
    done = warpfleet("sweep", path, "--out", tmp_path / "out")
    assert_one_line(done, 3, "wftest-none")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = warpfleet("sweep", fleet(tmp_path), "--out", tmp_path / "file" / "out")
    assert_one_line(done, 2, "out", "--out")


def test_a_directory_that_holds_a_sweep_already(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sweep.json").write_text("{}")
    assert_one_line(warpfleet("sweep", fleet(tmp_path), "--out", out), 2, "--resume")


@pytest.mark.parametrize("pairs", ["alice:carol", "alice", "alice:alice", "random:0", "random:9", "random:x"])
def test_pairs_that_the_fleet_does_not_have(tmp_path: Path, pairs: str) -> None:
    done = warpfleet("sweep", fleet(tmp_path), "--out", tmp_path / "out", "--pairs", pairs)
    assert_one_line(done, 2, "--pairs")


@pytest.mark.parametrize("plugin", ["get_addr", "no_such_plugin"])
def test_a_plugin_that_makes_no_connection(tmp_path: Path, plugin: str) -> None:
    done = warpfleet("connect", fleet(tmp_path), "alice", "bob", "--only", plugin)
    assert_one_line(done, 2, plugin, "direct_connect")


def test_a_node_that_is_not_in_the_fleet(tmp_path: Path) -> None:
    assert_one_line(warpfleet("connect", fleet(tmp_path), "alice", "bo"), 2, "bo", "bob")


def test_explaining_a_folder_without_a_sweep(tmp_path: Path) -> None:
    assert_one_line(warpfleet("explain", tmp_path, "alice:bob"), 2, "sweep.json")


@pytest.mark.ray
def test_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        text = FLEET.format(alice="", bob="bob") + f'services: {{mqtt: ["mqtt://user:hidden@127.0.0.1:{port}"]}}\n'
        done = warpfleet("sweep", fleet(tmp_path, text), "--out", tmp_path / "out")
    assert_one_line(done, 3, "broker", str(port))
    assert "hidden" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_a_turn_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"turn:127.0.0.1:{silent.getsockname()[1]}?transport=udp"
        turn = f'services: {{turn: [{{url: "{url}", username: u, password: hidden}}]}}\n'
        text = FLEET.format(alice=", vantage: {address: 127.0.0.1}", bob="bob, vantage: {address: 127.0.0.1}") + turn
        done = warpfleet("sweep", fleet(tmp_path, text), "--out", tmp_path / "out")
    assert_one_line(done, 3, "TURN", url)
    assert "hidden" not in done.stderr


@pytest.mark.ray
def test_two_nodes_of_this_machine_need_no_services(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = warpfleet("sweep", fleet(tmp_path), "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert '"direct": 2' in done.stdout
    assert stat.S_ISDIR(out.stat().st_mode)
