"""One laboratory for all kernel tests, and sockets in it."""

import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from warpfleet.configs.topology import PRESETS, Topology
from warpfleet.core.endpoint import Endpoint
from warpfleet.lab import laboratory, netns, rootless
from warpfleet.lab.laboratory import Lab

ONE, TWO = "203.0.113.10", "203.0.113.20"  # two of the core's addresses
TIMEOUT_S = 2.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the right to make namespaces, say so instead of failing."""
    if rootless.mode() is rootless.Mode.ROOT:
        return
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason="needs root: run the tests as root, or inside `unshare -Urnm`"))


@dataclass
class Bench:
    """Sockets at places of a laboratory, closed at the end of the test."""

    lab: Lab
    opened: list[socket.socket] = field(default_factory=list)

    def udp(self, place: str, ip: str = "", port: int = 0) -> socket.socket:
        """A bound UDP socket of a place; IPv6 where `ip` is."""
        return self._bound(place, socket.SOCK_DGRAM, ip, port)

    def tcp(self, place: str, ip: str = "", port: int = 0) -> socket.socket:
        """A bound TCP socket of a place."""
        return self._bound(place, socket.SOCK_STREAM, ip, port)

    def _bound(self, place: str, kind: socket.SocketKind, ip: str, port: int) -> socket.socket:
        with netns.inside(self.lab.netns(place)):
            made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind)
        self.opened.append(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(TIMEOUT_S)
        made.bind((ip, port))
        return made

    def listener(self, ip: str, port: int) -> socket.socket:
        """A listening TCP socket in the core."""
        made = self.tcp("core", ip, port)
        made.listen()
        return made

    def seen(self, host: socket.socket, server: socket.socket) -> Endpoint:
        """Send a datagram from a host's socket to a server's: the source that the server sees."""
        token = secrets.token_bytes(8)
        host.sendto(token, server.getsockname()[:2])
        while True:
            data, source = server.recvfrom(100)
            if data == token:
                return Endpoint(*source[:2])


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Every preset and every special case, nearly all without delay."""
    presets = [{"name": name, "nat": name} for name in PRESETS]
    special = [
        {"name": "adm", "nat": {"mapping": "ADM", "filtering": "ADF", "port_assignment": "random"}},
        {"name": "step_four", "nat": {"preset": "symmetric_sequential", "port_delta": 4}},
        {"name": "step_back", "nat": {"preset": "symmetric_sequential", "port_delta": -2}},
        {"name": "block", "nat": {"preset": "symmetric_random", "port_range": [40_000, 40_127]}},
        {"name": "step_in_block", "nat": {"preset": "symmetric_sequential", "port_range": [40_000, 40_127]}},
        {"name": "short", "nat": {"preset": "eim_random_ports", "filtering": "EIF", "udp_lifetime_s": 1}},
        {"name": "rst", "nat": {"preset": "port_restricted", "tcp_unsolicited": "rst"}},
        {"name": "firewalled_adf", "nat": {"preset": "public_firewalled", "filtering": "ADF"}},
        {"name": "six_firewalled", "nat": "port_restricted", "ipv6": "firewalled"},
        {"name": "six_open", "nat": "port_restricted", "ipv6": "open"},
        {"name": "far", "nat": "full_cone", "delay_ms": 20},
        {"name": "far_public", "nat": "public", "delay_ms": 20},
    ]
    routers = [
        {"name": "plain", "nat": "port_restricted"},
        {"name": "hairpin", "nat": {"preset": "port_restricted", "hairpinning": True}},
        {"name": "carrier", "nat": {"preset": "eim_random_ports", "hairpinning": True}, "ipv6": "firewalled"},
        {"name": "home", "nat": "full_cone", "behind": "carrier", "ipv6": "firewalled"},
    ]
    behind = {"plain_one": "plain", "plain_two": "plain", "pin_one": "hairpin", "pin_two": "hairpin"}
    behind |= {"customer": "home", "near_carrier": "carrier"}
    hosts = presets + special + [{"name": name, "behind": router} for name, router in behind.items()]
    topology = Topology.model_validate({"version": 1, "name": "kernel-tests", "routers": routers, "hosts": hosts})
    with laboratory.laboratory(topology) as made:
        yield made


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    """Sockets in the laboratory."""
    made = Bench(lab)
    yield made
    for opened in made.opened:
        opened.close()
