"""A coturn on loopback, and what tests must know of it."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from warpfleet.configs.fleet import TurnServer
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage

HOME = "127.0.0.1"
USER, CLOSER, CANCELLER = "tester", "closer", "canceller"  # each has its own allocations
PASSWORD = "correct-horse"  # of a server that lives as long as the tests
PLACES = 20  # allocations that the server allows a user


@dataclass(frozen=True)
class Coturn:
    """A TURN server that answers at one loopback port, over UDP and TCP."""

    port: int

    def server(
        self, transport: str = "udp", *, username: str = USER, password: str = PASSWORD, port: int | None = None
    ) -> TurnServer:
        """Its entry in a fleet file."""
        url = f"turn:{HOME}:{port or self.port}?transport={transport}"
        return TurnServer.model_validate({"url": url, "username": username, "password": password})


@contextmanager
def running(folder: Path) -> Iterator[Coturn]:
    """A coturn of our own with long-term credentials; its relayed addresses may reach loopback peers."""
    port = free_port()
    lines = [f"listening-ip={HOME}", f"relay-ip={HOME}", f"listening-port={port}", "lt-cred-mech", "realm=test"]
    lines += [f"user={user}:{PASSWORD}" for user in (USER, CLOSER, CANCELLER)]
    lines += [f"user-quota={PLACES}", "allow-loopback-peers", "no-tls", "no-dtls", "no-cli", "fingerprint"]
    lines += [f"pidfile={folder / 'pid'}", f"userdb={folder / 'db'}", f"log-file={folder / 'log'}"]
    config = private_file(folder / "turnserver.conf", lines)
    process = subprocess.Popen(
        ["turnserver", "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        asyncio.run(until_it_answers(Endpoint(HOME, port)))
        yield Coturn(port)
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """A port that is free for UDP and for TCP."""
    with socket.create_server((HOME, 0)) as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOME, taken.getsockname()[1]))
        return int(probe.getsockname()[1])


def private_file(path: Path, lines: list[str]) -> Path:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


async def until_it_answers(server: Endpoint) -> None:
    """Ask a STUN server again and again, for ten seconds at most."""
    network = KernelNetwork(Vantage(address=HOME), stun_servers=[server])
    asking = await network.open_udp(4)
    try:
        await network.external_endpoint(asking, timeout_s=10)
    finally:
        asking.close()
