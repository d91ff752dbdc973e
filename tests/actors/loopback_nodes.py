"""Nodes as a program opens them: on loopback, with a real broker, and keys of their own."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from warpfleet.actors.node import Node
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.loader import message_types
from warpfleet.signal.hub import SignalHub
from warpfleet.signal.mailbox import Received
from warpfleet.signal.record import AddressRecord, ListenerAddress

MOSQUITTO = which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
HOME = Vantage(address="127.0.0.1")

NEEDS_BROKER = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto")


def mosquitto(folder: Path, ip: str, port: int, *enter: str) -> subprocess.Popen[bytes]:
    """A broker, started by the command `enter` where one is given; it may not listen yet."""
    config = folder / "mosquitto.conf"
    config.write_text(f"allow_anonymous true\nuser root\nset_tcp_nodelay true\nlistener {port} {ip}\nlog_dest none\n")
    return subprocess.Popen([*enter, str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)


@dataclass
class Cast:
    """Identities that the broker has never heard of."""

    alice: Identity
    bob: Identity
    eve: Identity


@asynccontextmanager
async def opened(broker: str, *identities: Identity, **options: Any) -> AsyncIterator[list[Node]]:
    """Nodes on loopback that trust one another."""
    async with AsyncExitStack() as stack:
        nodes = []
        for identity in identities:
            peers = [other.public for other in identities if other != identity]
            opening = Node.open(identity, peers=peers, mqtt=[broker], **({"vantage": HOME} | options))
            nodes.append(await stack.enter_async_context(opening))
        yield nodes


async def accepted(node: Node) -> Pipe:
    async with asyncio.timeout(5):
        return await anext(node.accept())


async def collected(node: Node) -> list[Pipe]:
    """Every pipe that comes, until the node closes."""
    return [pipe async for pipe in node.accept()]


async def exchange(one: Pipe, other: Pipe) -> None:
    """Bytes go both ways; then the pipes are closed."""
    async with one, other:
        await talk(one, other)


async def talk(one: Pipe, other: Pipe) -> None:
    """Bytes go both ways."""
    for sender, receiver in ((one, other), (other, one)):
        await sender.send(b"hello")
        async with asyncio.timeout(5):
            assert await receiver.recv() == b"hello"


async def ended(pipe: Pipe) -> bool:
    """Whether the peer has closed it, or is gone."""
    try:
        async with asyncio.timeout(5):
            return await pipe.recv() == b""
    except ConnectionLost:
        return True


@asynccontextmanager
async def hub_of(
    identity: Identity, broker: str, *trusted: PublicIdentity
) -> AsyncIterator[tuple[SignalHub, asyncio.Queue[Received]]]:
    """The signal channel of somebody who runs no node, and what arrives there."""
    received: asyncio.Queue[Received] = asyncio.Queue()
    async with SignalHub(message_types(), received.put) as hub:
        hub.trust(trusted)
        hub.open_node(identity, [broker])
        await hub.wait_connected(identity.name, 5)
        yield hub, received


def record_of(identity: Identity, *listeners: ListenerAddress) -> AddressRecord:
    now = time.time()
    return AddressRecord(
        name=identity.name,
        node_id=identity.public.node_id,
        seq=int(now * 1000),
        issued_at=now,
        expires_at=now + 60,
        machine=HOME.machine_id(),
        listeners=listeners,
    )
