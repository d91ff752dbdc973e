"""One node as a library: real broker, real sockets, several nodes in one event loop."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import aiomqtt
import pytest
from pyarrow import parquet

from warpfleet.actors import backlog, signal_host
from warpfleet.actors.base_node import ConnectFailed
from warpfleet.actors.node import Node
from warpfleet.core.combo import Combo, Reason, RouteType, Side, Transport
from warpfleet.core.errors import InputError, MissingError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.targets import loopback_alias
from warpfleet.net.handshake import FRAME_BYTES, Event, Handshake
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.network import KernelNetwork
from warpfleet.net.sockets import TcpStream
from warpfleet.net.stunserver import StunServer
from warpfleet.net.tls import TlsPipe, Tunnel
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.address_messages import GetAddr, ReturnAddr
from warpfleet.plugins.attempt_messages import Abandon, AttemptMessage
from warpfleet.plugins.loader import message_types
from warpfleet.signal.hub import SignalHub
from warpfleet.signal.mailbox import PeerUnavailable, Received
from warpfleet.signal.record import AddressRecord, ListenerAddress, record_topic

MOSQUITTO = which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
HOME = Vantage(address="127.0.0.1")

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt-get install mosquitto")


def mosquitto(folder: Path, ip: str, port: int, *enter: str) -> subprocess.Popen[bytes]:
    """A broker, started by the command `enter` where one is given; it may not listen yet."""
    config = folder / "mosquitto.conf"
    config.write_text(f"allow_anonymous true\nuser root\nset_tcp_nodelay true\nlistener {port} {ip}\nlog_dest none\n")
    return subprocess.Popen([*enter, str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker on loopback; a node connects again until it listens."""
    port = free_port()
    process = mosquitto(tmp_path_factory.mktemp("broker"), "127.0.0.1", port)
    yield f"mqtt://127.0.0.1:{port}"
    process.kill()
    process.wait()


@dataclass
class Cast:
    """Identities that the broker has never heard of."""

    alice: Identity
    bob: Identity
    eve: Identity


@pytest.fixture
def cast() -> Cast:
    return Cast(*(Identity.generate(name, secrets.token_bytes(32)) for name in ("alice", "bob", "eve")))


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


async def exchange_at_last(pipe: Pipe, peer: Node) -> None:
    """Bytes go both ways; pipes that came to the peer before have ended."""
    while (other := await accepted(peer)).path.remote != pipe.path.local or other.path.local != pipe.path.remote:
        async with other:
            assert await ended(other)
    await exchange(pipe, other)


async def ended(pipe: Pipe) -> bool:
    """Whether the peer has closed it, or is gone."""
    try:
        async with asyncio.timeout(5):
            return await pipe.recv() == b""
    except ConnectionLost:
        return True


def descriptors() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return {link for link in found if link.startswith("socket:")}


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """Whatever a test did with its nodes, no task and no socket outlives them."""
    sockets = descriptors()
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert descriptors() <= sockets


def test_a_node_without_telemetry_is_not_kept_waiting_by_what_it_does_not_need() -> None:
    needless = ("duckdb", "pyarrow", "matplotlib", "jinja2", "ray", "rich", "typer", "amqtt", "aiohttp")
    said = f"""import sys, warpfleet.actors.node
from warpfleet.net.portmap.client import client_at  # which whoever has a gateway uses
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.loader import registrations
registrations(), client_at(Vantage(), 4)
print(*sys.modules.keys() & {set(needless)})"""
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


async def test_two_nodes_connect_by_loopback_and_exchange_bytes(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        pipe = await alice.connect("bob", plugin_name="direct_connect", route_type=RouteType.LOOPBACK)
        other = await accepted(bob)
        assert (pipe.peer, other.peer, pipe.path.transport) == ("bob", "alice", Transport.TCP)
        assert pipe.path.remote.ip.startswith("127.")
        await exchange(pipe, other)


async def test_an_unpinned_connect_finds_a_way(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        await exchange(await alice.connect("bob", timeout_s=5), await accepted(bob))


async def test_both_connect_to_each_other_at_once(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        outward, inward = await asyncio.gather(alice.connect("bob"), bob.connect("alice"))
        await exchange(outward, await accepted(bob))
        await exchange(inward, await accepted(alice))


async def test_many_connections_at_once_are_told_apart(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        pipes = await asyncio.gather(*(alice.connect("bob") for _ in range(8)))
        others = {pipe.path.remote: pipe for pipe in [await accepted(bob) for _ in pipes]}
        for pipe in pipes:
            await exchange(pipe, others[pipe.path.local])


async def test_a_peer_that_is_trusted_later_can_connect(broker: str, cast: Cast) -> None:
    options: dict[str, Any] = {"mqtt": [broker], "vantage": HOME}
    async with Node.open(cast.alice, **options) as alice, Node.open(cast.bob, **options) as bob:
        await alice.trust(bob.public)
        await bob.trust(alice.public)
        await exchange(await alice.connect("bob", timeout_s=5), await accepted(bob))


async def test_a_peer_that_comes_up_during_connect_is_reached(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        connecting = asyncio.create_task(alice.connect("bob"))
        async with Node.open(cast.bob, peers=[alice.public], mqtt=[broker], vantage=HOME) as bob:
            await exchange(await connecting, await accepted(bob))


async def test_a_peer_without_a_record_on_the_broker_is_asked(broker: str, cast: Cast) -> None:
    port = int(broker.rpartition(":")[2])
    async with Node.open(cast.bob, peers=[cast.alice.public], mqtt=[broker], vantage=HOME) as bob:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.publish(record_topic(bob.public.node_id), b"", qos=1, retain=True)
        async with Node.open(cast.alice, peers=[bob.public], mqtt=[broker], vantage=HOME) as alice:
            await exchange(await alice.connect("bob"), await accepted(bob))


async def test_stun_shows_a_node_its_external_address(broker: str, cast: Cast) -> None:
    server = await StunServer.start()
    try:
        async with opened(broker, cast.alice, stun=[str(endpoint) for endpoint in server.endpoints]) as (alice,):
            assert alice.view.external[4] == "127.0.0.1"
    finally:
        await server.close()


async def test_a_peer_that_was_never_there_fails_with_a_reason(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        with pytest.raises(ConnectFailed, match="the time allowed for the whole connection had passed") as failed:
            await alice.connect("bob", timeout_s=0.3)
        assert failed.value.reason is Reason.DEADLINE
        assert (failed.value.row.initiator, failed.value.row.responder) == ("alice", "bob")


async def test_a_peer_that_is_down_fails_with_a_reason(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        await (await alice.connect("bob")).close()
        await bob.close()
        with pytest.raises(ConnectFailed, match="refused") as failed:
            await alice.connect("bob", plugin_name="direct_connect", timeout_s=5)
        assert failed.value.reason is Reason.ALL_FAILED


async def test_the_deadline_is_kept_although_the_peer_is_silent(broker: str, cast: Cast) -> None:
    alias = loopback_alias(cast.bob.public.key)
    with socket.create_server((alias, 0)) as silent:
        listener = ListenerAddress(ip=alias, port=silent.getsockname()[1])
        async with hub_of(cast.bob, broker, cast.alice.public) as (hub, _):
            hub.publish_record("bob", record_of(cast.bob, listener))
            async with opened(broker, cast.alice) as (alice,):
                await alice.trust(cast.bob.public)
                began_s = time.monotonic()
                with pytest.raises(ConnectFailed) as failed:
                    await alice.connect("bob", timeout_s=0.3)
                assert failed.value.reason is Reason.DEADLINE
                assert 0.3 <= time.monotonic() - began_s < 2


async def test_what_the_caller_got_wrong_is_said(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, _):
        with pytest.raises(InputError, match="knows no peer 'bbo'; did you mean 'bob'"):
            await alice.connect("bbo")
        with pytest.raises(InputError, match="there is no plugin 'teleport'"):
            await alice.connect("bob", plugin_name="teleport")
        with pytest.raises(InputError, match="carries no pipe"):
            await alice.connect("bob", plugin_name="get_addr")
        with pytest.raises(InputError, match="4 or 6"):
            await alice.connect("bob", af=5)
        with pytest.raises(InputError, match="own peer"):
            await alice.trust(alice.public)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mqtt": ["http://127.0.0.1"]}, "mqtt"),
        ({"mqtt": []}, "mqtt names no broker"),
        ({"mqtt": ["mqtt://127.0.0.1"], "stun": ["stun.example.net"]}, "stun"),
        ({"mqtt": ["mqtt://127.0.0.1"], "listen": [70000]}, "listen"),
    ],
)
async def test_wrong_arguments_of_open_are_named(options: dict[str, Any], message: str, cast: Cast) -> None:
    with pytest.raises(InputError, match=message):
        async with Node.open(cast.alice, **options):
            pass


async def test_no_broker_is_a_missing_service(monkeypatch: pytest.MonkeyPatch, cast: Cast) -> None:
    monkeypatch.setattr(signal_host, "_CONNECT_S", 0.2)
    with pytest.raises(MissingError, match="no MQTT broker answered"):
        async with Node.open(cast.alice, mqtt=[f"mqtt://127.0.0.1:{free_port()}"], vantage=HOME):
            pass


async def test_a_taken_port_is_a_missing_thing(broker: str, cast: Cast) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MissingError, match=f"cannot listen on TCP port {port}"):
            async with Node.open(cast.alice, mqtt=[broker], vantage=HOME, listen=[port]):
                pass


async def test_a_cancelled_connect_leaves_nothing_behind(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        connecting = asyncio.create_task(alice.connect("bob"))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


@pytest.mark.parametrize("steps", [1, 3, 10, 30, 60, 100, 150, 200])
async def test_cancelling_connect_at_any_step_loses_no_socket(broker: str, steps: int, cast: Cast) -> None:
    """Each step is one turn of the event loop: from before the walk began until after the pipe was won."""
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        connecting = asyncio.create_task(alice.connect("bob"))
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        [outcome] = await asyncio.gather(connecting, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.close()
        await exchange_at_last(await alice.connect("bob"), bob)


async def test_a_pipe_that_is_won_at_the_deadline_is_either_given_or_closed(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        before = len(descriptors())
        outcomes = []
        for after_ms in range(20):
            connecting = alice.connect("bob", timeout_s=after_ms / 1000)
            outcomes += await asyncio.gather(connecting, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, ConnectFailed)]
        assert {error.reason for error in failed} == {Reason.DEADLINE}
        given = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(failed) + len(given) == len(outcomes)
        for pipe in given:
            await pipe.close()
        await exchange_at_last(await alice.connect("bob"), bob)
        assert len(descriptors()) == before


async def test_closing_during_connect_ends_it(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice) as (alice,):
        await alice.trust(cast.bob.public)
        connecting = asyncio.create_task(alice.connect("bob"))
        accepting = asyncio.create_task(collected(alice))
        await asyncio.sleep(0)
        began_s = time.monotonic()
        await alice.close()
        with pytest.raises(ConnectFailed) as failed:
            await connecting
        assert failed.value.reason is Reason.STOPPED
        assert await accepting == []
        assert time.monotonic() - began_s < 2
        with pytest.raises(ConnectionLost, match="node alice is closed"):
            await alice.connect("bob")
        await alice.close()


async def test_a_node_closes_its_pipes(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        pipe, other = await alice.connect("bob"), await accepted(bob)
        unaccepted = await alice.connect("bob")
        await bob.close()
        assert await pipe.recv() == b""
        for lost in (unaccepted, other):
            with pytest.raises(ConnectionLost):
                await lost.recv()


async def test_pipes_beyond_the_backlog_are_broken_off(
    broker: str, monkeypatch: pytest.MonkeyPatch, cast: Cast
) -> None:
    monkeypatch.setattr(backlog, "_PIPES_MAX", 1)
    async with opened(broker, cast.alice, cast.bob) as (alice, bob):
        first, second = await alice.connect("bob"), await alice.connect("bob")
        with pytest.raises(ConnectionLost):
            await second.recv()
        await exchange(first, await accepted(bob))


async def test_telemetry_has_a_row_of_each_connection(broker: str, tmp_path: Path, cast: Cast) -> None:
    async with opened(broker, cast.bob) as (bob,):
        await bob.trust(cast.alice.public)
        options: dict[str, Any] = {"peers": [bob.public], "mqtt": [broker], "vantage": HOME}
        async with Node.open(cast.alice, telemetry=tmp_path, **options) as alice:
            await (await alice.connect("bob", plugin_name="direct_connect")).close()
            with pytest.raises(ConnectFailed):
                await alice.connect("bob", plugin_name="turn")
    rows = parquet.read_table(tmp_path / "connections").to_pylist()
    assert sorted((row["responder"], row["outcome"], row["plugin"]) for row in rows) == [
        ("bob", "direct", "direct_connect"),
        ("bob", "failed", None),
    ]
    attempts = parquet.read_table(tmp_path / "attempts").to_pylist()
    assert {row["outcome"] for row in attempts} >= {"won", "skipped"}


# Attackers


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


@dataclass
class Dialler:
    """Speaks the pipe protocol by hand as the initiator, for `identity`, to a node's listener on loopback."""

    identity: Identity
    node: Node
    connection_id: str = "c" * 32
    attempt_id: str = "a" * 32

    def handshake(self) -> Handshake:
        return Handshake(
            side=Side.INITIATOR,
            identity=self.identity,
            peer=self.node.public,
            connection_id=self.connection_id,
            attempt_id=self.attempt_id,
            combo=Combo("direct_connect", 4, RouteType.LOOPBACK),
            started_at_us=time.time_ns() // 1000,
            nonce=secrets.token_bytes(16),
        )

    async def dial(self) -> TcpStream:
        remote = next(e for e in self.node.view.listeners if e.af == 4)
        return await KernelNetwork(HOME).connect_tcp(remote, timeout_s=2)


async def answer(stream: TcpStream) -> bytes:
    async with asyncio.timeout(2):
        return await stream.read_exactly(FRAME_BYTES)


async def test_a_stranger_gets_no_answer_from_a_listener(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.bob, cast.alice) as (bob, _):
        mallory = Dialler(Identity.generate("alice", secrets.token_bytes(32)), bob)
        stream = await mallory.dial()
        await stream.write(mallory.handshake().opener())
        with pytest.raises(ConnectionLost):
            await answer(stream)
        stream.close()


async def test_a_stranger_with_a_node_of_its_own_cannot_connect(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.bob, cast.alice) as (bob, _), opened(broker, cast.eve) as (eve,):
        await eve.trust(bob.public)
        with pytest.raises(ConnectFailed) as failed:
            await eve.connect("bob", plugin_name="direct_connect", timeout_s=2)
        assert failed.value.reason is Reason.ALL_FAILED
        accepting = asyncio.create_task(collected(bob))
        await asyncio.sleep(0)
        assert not accepting.done()
        accepting.cancel()
        await asyncio.wait([accepting])


async def test_a_key_that_was_replaced_is_a_strangers(broker: str, cast: Cast) -> None:
    renewed = Identity.generate("alice", secrets.token_bytes(32))
    async with opened(broker, cast.bob) as (bob,):
        await bob.trust(cast.alice.public)
        await bob.trust(renewed.public)
        old, new = Dialler(cast.alice, bob), Dialler(renewed, bob)
        stream = await old.dial()
        await stream.write(old.handshake().opener())
        with pytest.raises(ConnectionLost):
            await answer(stream)
        stream.close()
        stream, proof = await new.dial(), new.handshake()
        await stream.write(proof.opener())
        assert proof.receive(await answer(stream)).event is Event.PROVED
        stream.close()


def question(kind: type[AttemptMessage], attempt_id: str, **fields: str) -> AttemptMessage:
    head = {"attempt_id": attempt_id, "af": 4, "route": RouteType.EXT, "started_at_us": time.time_ns() // 1000}
    return kind.model_validate(head | fields)


async def test_a_strangers_signal_is_neither_acknowledged_nor_answered(broker: str, cast: Cast) -> None:
    async with (
        opened(broker, cast.bob) as (bob,),
        hub_of(cast.alice, broker, bob.public) as (trusted, answers),
        hub_of(cast.eve, broker, bob.public) as (stranger, leaks),
    ):
        await bob.trust(cast.alice.public)
        with pytest.raises(PeerUnavailable):
            await stranger.send("eve", "bob", "c" * 32, question(GetAddr, "a" * 32), 0.3)
        await trusted.send("alice", "bob", "c" * 32, question(GetAddr, "b" * 32), 2)
        async with asyncio.timeout(2):
            assert isinstance((await answers.get()).message, ReturnAddr)
        assert leaks.empty()


async def test_a_trusted_third_cannot_take_over_an_attempt_of_two_others(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.bob) as (bob,), hub_of(cast.eve, broker, bob.public) as (hub, _):
        await bob.trust(cast.alice.public, cast.eve.public)
        alice, eve = Dialler(cast.alice, bob), Dialler(cast.eve, bob)
        stream, proof = await alice.dial(), alice.handshake()
        await stream.write(proof.opener())
        assert proof.receive(await answer(stream)).event is Event.PROVED

        intruder = await eve.dial()
        await intruder.write(eve.handshake().opener())
        with pytest.raises(ConnectionLost):
            await answer(intruder)
        intruder.close()
        await hub.send(
            "eve", "bob", alice.connection_id, question(Abandon, alice.attempt_id, plugin="direct_connect"), 2
        )

        tunnel = Tunnel(Side.INITIATOR, cast.alice)
        await stream.write(b"".join((proof.take(), *tunnel.first_flight())))
        assert proof.receive(await answer(stream)).event is Event.AGREED
        mine = await TlsPipe.open(stream, tunnel, proof)
        theirs = await accepted(bob)
        assert theirs.peer == "alice"
        await exchange(mine, theirs)


# Between two hosts


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
