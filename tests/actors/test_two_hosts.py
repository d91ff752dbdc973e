"""Two nodes on two hosts: namespaces that a cable joins."""

import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from loopback_nodes import NEEDS_BROKER, Cast, accepted, ended, mosquitto, talk

from warpfleet.actors.node import Node
from warpfleet.core.combo import RouteType
from warpfleet.net.vantage import Vantage

pytestmark = [NEEDS_BROKER, pytest.mark.usefixtures("nothing_is_left")]


@dataclass
class Site:
    """Two namespaces that a cable joins, and a broker in the first."""

    names: tuple[str, str]
    url: str


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    ip = partial(subprocess.run, check=True, capture_output=True)
    token = secrets.token_hex(3)
    names = (f"wftest-{token}-a", f"wftest-{token}-b")
    process: subprocess.Popen[bytes] | None = None
    try:
        for name in names:
            ip(["ip", "netns", "add", name])
        ip(["ip", "-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1]])
        for host, name in enumerate(names, 1):
            ip(["ip", "-n", name, "address", "add", f"10.99.0.{host}/24", "dev", "cable"])
            ip(["ip", "-n", name, "link", "set", "cable", "up"])
            ip(["ip", "-n", name, "link", "set", "lo", "up"])
        process = mosquitto(tmp_path, "10.99.0.1", 1883, "ip", "netns", "exec", names[0])
        yield Site(names, "mqtt://10.99.0.1:1883")
    finally:
        if process is not None:
            process.kill()
            process.wait()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.lab
@pytest.mark.parametrize("plugin", ["udp_punch", "direct_connect", "reverse_connect"])
async def test_a_pinned_plugin_connects_two_hosts_by_their_interfaces(site: Site, plugin: str, cast: Cast) -> None:
    at_a, at_b = (Vantage(netns=name) for name in site.names)
    async with (
        Node.open(cast.alice, peers=[cast.bob.public], mqtt=[site.url], vantage=at_a) as alice,
        Node.open(cast.bob, peers=[cast.alice.public], mqtt=[site.url], vantage=at_b) as bob,
    ):
        pipe = await alice.connect("bob", plugin_name=plugin, route_type=RouteType.NIC, timeout_s=5)
        other = await accepted(bob)
        assert (pipe.path.remote.ip, other.path.remote.ip) == ("10.99.0.2", "10.99.0.1")
        await talk(pipe, other)
        await pipe.close()
        assert await ended(other)
