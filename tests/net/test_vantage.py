"""Vantages: what they accept, where their sockets stand, and what is said of those that are not there."""

import os
import pickle
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from process_sockets import descriptors
from warpfleet.core.errors import InputError, MissingError
from warpfleet.net.interfaces import Unreachable
from warpfleet.net.vantage import Vantage

NETNS = f"wftest-{os.getpid()}"


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace with nothing but its loopback interface."""
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    try:
        subprocess.run(["ip", "-n", NETNS, "link", "set", "lo", "up"], check=True)
        yield NETNS
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=False, capture_output=True)


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a TCP listener on 127.0.0.1, which accepts by its backlog alone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    "given",
    [
        {"netns": "../../etc/passwd"},
        {"netns": ".."},
        {"netns": ""},
        {"interface": "a b"},
        {"address": "example.net"},
        {"netns": "a", "address": "127.0.0.1"},
    ],
)
def test_what_is_no_vantage_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Vantage(**given)


def test_a_vantage_pickles_and_compares_by_value() -> None:
    vantage = Vantage(address="2001:DB8:0::1")
    assert pickle.loads(pickle.dumps(vantage)) == vantage == Vantage(address="2001:db8::1")
    assert str(vantage) == "address 2001:db8::1"
    assert str(Vantage()) == "default route"


@pytest.mark.parametrize(
    "vantage",
    [Vantage(netns="wftest-missing"), Vantage(interface="wftest-missing"), Vantage(address="203.0.113.99")],
    ids=str,
)
def test_what_is_not_there_is_missing_and_named(vantage: Vantage) -> None:
    with pytest.raises(MissingError, match=r"wftest-missing|203\.0\.113\.99"):
        vantage.check()


@pytest.mark.parametrize("vantage", [Vantage(), Vantage(interface="lo"), Vantage(address="127.0.0.9")], ids=str)
def test_what_is_there_passes_the_check(vantage: Vantage) -> None:
    before = descriptors()
    vantage.check()
    assert descriptors() <= before, "it has closed what it tried"


def test_sockets_are_bound_to_the_address_and_do_not_block() -> None:
    with Vantage(address="127.0.0.9").open(4, socket.SOCK_DGRAM) as opened:
        assert opened.getsockname()[0] == "127.0.0.9"
        assert not opened.getblocking()


def test_an_address_has_one_family() -> None:
    with pytest.raises(Unreachable):
        Vantage(address="127.0.0.1").open(6, socket.SOCK_DGRAM)


def test_interfaces_are_those_of_the_vantage() -> None:
    assert {entry.name for entry in Vantage(interface="lo").interfaces()} == {"lo"}
    assert [(entry.name, entry.ip) for entry in Vantage(address="127.0.0.9").interfaces()] == [("lo", "127.0.0.9")]
    assert any(entry.ip == "127.0.0.1" and entry.prefix_len == 8 for entry in Vantage().interfaces())


def test_connecting_from_a_worker_thread(echo: int) -> None:
    with Vantage(address="127.0.0.9").connect_blocking("localhost", echo, 5) as connected:
        assert connected.getpeername() == ("127.0.0.1", echo)
        assert connected.getsockname()[0] == "127.0.0.9"


def test_connecting_where_nobody_listens_is_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            Vantage().connect_blocking("127.0.0.1", taken.getsockname()[1], 5)


async def test_names_are_resolved() -> None:
    assert ("127.0.0.1", 7) in await Vantage().resolve("localhost", 7)
    assert await Vantage().resolve("2001:DB8::1", 7) == [("2001:db8::1", 7)]
    with pytest.raises(Unreachable):
        await Vantage().resolve("name.invalid", 7)


@pytest.mark.lab
def test_a_socket_stands_in_its_namespace_and_the_thread_does_not(netns: str) -> None:
    home = Path("/proc/thread-self/ns/net").stat().st_ino
    with Vantage(netns=netns).open(4, socket.SOCK_STREAM, port=0) as inside:
        assert Path("/proc/thread-self/ns/net").stat().st_ino == home
        inside.listen()
        port = inside.getsockname()[1]
        Vantage(netns=netns).connect_blocking("127.0.0.1", port, 5).close()
        with pytest.raises(ConnectionRefusedError):
            Vantage(address="127.0.0.1").connect_blocking("127.0.0.1", port, 5)


@pytest.mark.lab
def test_a_socket_outlives_the_name_of_its_namespace(netns: str) -> None:
    with (
        Vantage(netns=netns).open(4, socket.SOCK_DGRAM, port=0) as one,
        Vantage(netns=netns).open(4, socket.SOCK_DGRAM, port=0) as two,
    ):
        subprocess.run(["ip", "netns", "del", netns], check=True)
        one.sendto(b"still here", ("127.0.0.1", two.getsockname()[1]))
        two.settimeout(5)
        assert two.recv(100) == b"still here"
        with pytest.raises(MissingError):
            Vantage(netns=netns).check()


@pytest.mark.lab
def test_interfaces_of_a_namespace(netns: str) -> None:
    assert {entry.name for entry in Vantage(netns=netns).interfaces()} == {"lo"}


@pytest.mark.lab
def test_machines_are_told_apart_by_their_loopback(netns: str) -> None:
    assert Vantage().machine_id() == Vantage(address="127.0.0.1").machine_id()
    assert Vantage(netns=netns).machine_id() == Vantage(netns=netns).machine_id() != Vantage().machine_id()


@pytest.mark.lab
async def test_a_blocking_function_runs_inside_and_its_thread_comes_back(netns: str) -> None:
    def where() -> tuple[int, int]:
        return os.stat("/proc/thread-self/ns/net").st_ino, threading.get_ident()

    home, _ = where()
    inside, thread = await Vantage(netns=netns).run_inside(where)
    assert inside == os.stat(f"/run/netns/{netns}").st_ino != home
    assert thread != threading.get_ident()
    outside, _ = await Vantage().run_inside(where)
    assert outside == home
