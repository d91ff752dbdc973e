"""Each preset proved from both sides: what the servers see of a host, and what the host sees of strangers."""

import itertools
import socket
from typing import Any

import pytest

from warpfleet.configs.topology import PRESETS, NatSpec, TcpAnswer
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.port_range import PortRange

pytestmark = pytest.mark.lab

ONE, TWO = "203.0.113.10", "203.0.113.20"
BLOCK = PortRange(40_000, 49_999)  # of three random ports two are the same once in three thousand times
SPECIAL = {
    "adm": NatSpec(mapping=Mapping.ADM, filtering=Filtering.ADF, port_assignment=PortAssignment.RANDOM),
    "step_four": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=4),
    "step_back": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_delta=-2),
    "block": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM, port_range=BLOCK),
    "step_in_block": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL, port_range=BLOCK),
    "firewalled_adf": NatSpec(translated=False, filtering=Filtering.ADF),
}
TRUTH = {name: nat for name, nat in {**PRESETS, **SPECIAL}.items() if nat is not None and not nat.udp_blocked}
QUIET_S = 0.3  # how long silence is listened to, where nothing can follow that would prove it


def check_ports(nat: NatSpec, local: int, same: int, other_port: int, other_address: int) -> None:
    """The external ports towards (A, 1), (A, 2) and (B, 1), of one local port."""
    distinct = {Mapping.EIM: 1, Mapping.ADM: 2, Mapping.APDM: 3}[nat.mapping]
    assert len({same, other_port, other_address}) == distinct
    if nat.mapping is Mapping.ADM:
        assert same == other_port
    if nat.port_assignment is PortAssignment.PRESERVING:
        assert same == local
    if nat.port_range:
        assert all(nat.port_range.first <= port <= nat.port_range.last for port in (same, other_port, other_address))
    if nat.port_assignment is PortAssignment.SEQUENTIAL:
        assert (other_port - same, other_address - other_port) == (nat.port_delta, nat.port_delta)


@pytest.mark.parametrize("name", TRUTH)
def test_udp_mapping(bench: Any, name: str) -> None:
    servers = [bench.udp("core", ONE), bench.udp("core", ONE), bench.udp("core", TWO)]
    host = bench.udp(name)
    seen = [bench.seen(host, server) for server in servers]
    assert len({endpoint.ip for endpoint in seen}) == 1
    check_ports(TRUTH[name], host.getsockname()[1], *(endpoint.port for endpoint in seen))


@pytest.mark.parametrize("name", TRUTH)
def test_tcp_mapping(bench: Any, name: str) -> None:
    listeners = [bench.listener(ONE, 0), bench.listener(ONE, 0), bench.listener(TWO, 0)]
    local, seen = 0, []
    for listener in listeners:
        host = bench.tcp(name, port=local)
        host.connect(listener.getsockname())
        local = host.getsockname()[1]
        accepted, source = listener.accept()
        bench.opened.append(accepted)
        seen.append(source[1])
    check_ports(TRUTH[name], local, *seen)


def test_random_ports_have_no_step(bench: Any) -> None:
    host = bench.udp("symmetric_random")
    ports = [bench.seen(host, bench.udp("core", ONE)).port for _ in range(12)]
    steps = {after - before for before, after in itertools.pairwise(ports)}
    assert len(steps) > 9


def test_preserved_port_of_a_neighbour_is_never_shared(bench: Any) -> None:
    one, two = bench.udp("core", ONE), bench.udp("core", TWO)
    first = bench.udp("plain_one")
    second = bench.udp("plain_two", port=first.getsockname()[1])
    taken = bench.seen(first, one).port
    towards_two, towards_one = bench.seen(second, two).port, bench.seen(second, one).port
    assert taken == first.getsockname()[1]
    assert towards_two == towards_one != taken


def heard(host: socket.socket, last: bytes) -> set[bytes]:
    """What arrives at a host's socket up to and without the message that was sent last."""
    messages = set()
    while (data := host.recv(100)) != last:
        messages.add(data)
    return messages


@pytest.mark.parametrize("name", [*TRUTH, "public"])
def test_udp_filtering(bench: Any, name: str) -> None:
    asked, other_port, other_address = bench.udp("core", ONE), bench.udp("core", ONE), bench.udp("core", TWO)
    host = bench.udp(name)
    external = bench.seen(host, asked)
    other_port.sendto(b"other port", external)
    other_address.sendto(b"other address", external)
    asked.sendto(b"asked", external)
    filtering = TRUTH[name].filtering if name in TRUTH else Filtering.EIF
    expected = {
        Filtering.EIF: {b"other port", b"other address"},
        Filtering.ADF: {b"other port"},
        Filtering.APDF: set[bytes](),
    }
    assert heard(host, b"asked") == expected[filtering]


@pytest.mark.parametrize("name", ["full_cone", "addr_restricted", "port_restricted"])
def test_an_early_probe_does_not_change_the_mapping(bench: Any, name: str) -> None:
    server, host = bench.udp("core", ONE), bench.udp(name)
    external_ip = bench.seen(bench.udp(name), server).ip
    port = host.getsockname()[1]
    server.sendto(b"early", (external_ip, port))
    assert bench.seen(host, server) == Endpoint(external_ip, port)


def test_an_early_syn_does_not_change_the_mapping(bench: Any) -> None:
    listener, host = bench.listener(ONE, 0), bench.tcp("port_restricted")
    external_ip = bench.seen(bench.udp("port_restricted"), bench.udp("core", ONE)).ip
    early = bench.tcp("core", ONE, listener.getsockname()[1] - 1)
    early.settimeout(QUIET_S)
    with pytest.raises(TimeoutError):
        early.connect((external_ip, host.getsockname()[1]))
    host.connect(listener.getsockname())
    assert listener.accept()[1] == (external_ip, host.getsockname()[1])


@pytest.mark.parametrize(("name", "answer"), [("port_restricted", TcpAnswer.DROP), ("rst", TcpAnswer.RST)])
def test_answer_to_an_unsolicited_syn(bench: Any, name: str, answer: TcpAnswer) -> None:
    external_ip = bench.seen(bench.udp(name), bench.udp("core", ONE)).ip
    stranger = bench.tcp("core", TWO)
    stranger.settimeout(QUIET_S)
    with pytest.raises(ConnectionRefusedError if answer is TcpAnswer.RST else TimeoutError):
        stranger.connect((external_ip, 4444))


def test_tcp_simultaneous_open_passes_two_nats(bench: Any) -> None:
    one, two = bench.tcp("port_restricted", port=5555), bench.tcp("addr_restricted", port=5556)
    ends = [
        (bench.seen(bench.udp(name), bench.udp("core", ONE)).ip, port)
        for name, port in (("port_restricted", 5555), ("addr_restricted", 5556))
    ]
    one.setblocking(False)
    one.connect_ex(ends[1])
    two.connect(ends[0])
    two.sendall(b"through")
    one.settimeout(2.0)
    assert one.recv(100) == b"through"


@pytest.mark.parametrize(("one", "two", "hairpins"), [("pin_one", "pin_two", True), ("plain_one", "plain_two", False)])
def test_hairpinning(bench: Any, one: str, two: str, hairpins: bool) -> None:
    server, first, second = bench.udp("core", ONE), bench.udp(one), bench.udp(two)
    external_one, external_two = bench.seen(first, server), bench.seen(second, server)
    first.sendto(b"round the bend", external_two)
    if hairpins:  # RFC 4787 section 6, REQ-9 a: from the external endpoint
        assert second.recvfrom(100) == (b"round the bend", tuple(external_one))
    server.sendto(b"asked", external_two)
    assert heard(second, b"asked") == set()


def test_hosts_behind_one_router_reach_each_other_directly(bench: Any) -> None:
    first, second = bench.udp("plain_one", "192.168.1.2"), bench.udp("plain_two", "192.168.1.3")
    assert bench.seen(first, second) == Endpoint(*first.getsockname())


def test_mapping_expires_and_lives_on_while_used(bench: Any) -> None:
    server, host = bench.udp("core", ONE), bench.udp("short")
    first = bench.seen(host, server)
    host.settimeout(0.5)
    for _ in range(4):  # two seconds in all: twice the lifetime
        assert bench.seen(host, server) == first
        with pytest.raises(TimeoutError):
            host.recv(100)
    host.settimeout(1.6)
    with pytest.raises(TimeoutError):
        host.recv(100)
    server.sendto(b"late", first)
    assert bench.seen(host, server) != first
    host.settimeout(QUIET_S)
    with pytest.raises(TimeoutError):
        host.recv(100)


def test_udp_blocked_lets_the_web_and_turn_out_over_tcp(bench: Any) -> None:
    server, host = bench.udp("core", ONE), bench.udp("udp_blocked")
    host.sendto(b"blocked", server.getsockname())
    for ip, port in ((ONE, 443), (TWO, 3478)):
        bench.tcp("udp_blocked").connect((ip, port))
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(100)
    other = bench.tcp("udp_blocked")
    other.settimeout(QUIET_S)
    with pytest.raises(TimeoutError):
        other.connect((ONE, 1883))


@pytest.mark.parametrize("name", ["public", "public_firewalled"])
def test_public_hosts_are_not_translated(bench: Any, name: str) -> None:
    host = bench.udp(name)
    server = bench.udp("core", ONE)
    seen = bench.seen(host, server)
    host.connect(server.getsockname())
    assert host.getsockname() == tuple(seen)


def test_carrier_grade_nat_translates_twice(bench: Any) -> None:
    server, customer, neighbour = bench.udp("core", ONE), bench.udp("customer"), bench.udp("near_carrier")
    seen, beside = bench.seen(customer, server), bench.seen(neighbour, server)
    assert seen.ip == beside.ip
    between = bench.seen(customer, bench.udp("near_carrier", "100.64.0.3"))
    assert between.ip.startswith("100.64.")
    neighbour.sendto(b"hairpinned by the carrier", seen)
    assert customer.recvfrom(100) == (b"hairpinned by the carrier", tuple(beside))


@pytest.mark.parametrize(("name", "lets_in"), [("six_open", True), ("six_firewalled", False), ("customer", False)])
def test_ipv6_is_not_translated_and_guarded(bench: Any, name: str, lets_in: bool) -> None:
    server, stranger = bench.udp("core", "2001:db8:ffff::10"), bench.udp("core", "2001:db8:ffff::20")
    host = bench.udp(name, "::")
    seen = bench.seen(host, server)
    stranger.sendto(b"stranger", seen)
    server.sendto(b"asked", seen)
    assert heard(host, b"asked") == ({b"stranger"} if lets_in else set())
    host.connect(server.getsockname())
    assert host.getsockname()[:2] == tuple(seen)


def test_truth_covers_every_preset() -> None:
    assert set(PRESETS) - set(TRUTH) == {"public", "udp_blocked"}
