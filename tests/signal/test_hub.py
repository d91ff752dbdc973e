"""The signal channel between nodes, over real brokers on loopback."""

import asyncio
import socket
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from shutil import which
from typing import ClassVar

import aiomqtt
import paho.mqtt.client
import pytest

from process_sockets import free_port
from warpfleet.core.errors import InputError, MissingError
from warpfleet.core.identity import Identity
from warpfleet.signal.broker import EmbeddedBroker
from warpfleet.signal.hub import SignalHub, connect_by_default_route
from warpfleet.signal.mailbox import PeerUnavailable, Received
from warpfleet.signal.messages import MessageTypes, ProtoMessage
from warpfleet.signal.record import AddressRecord, RecordError, inbox_topic
from warpfleet.signal.roster import UntrustedPeer

PROGRAM = which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class Mosquitto:
    """One broker that can be killed and started again on its port."""

    def __init__(self, directory: Path, *options: str, first: str = "allow_anonymous true") -> None:
        self.port = free_port()
        self._config = directory / f"mosquitto-{self.port}.conf"
        lines = (first, "user root", f"listener {self.port} 127.0.0.1", *options, "log_dest none")
        self._config.write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert PROGRAM is not None
        self._process = subprocess.Popen([PROGRAM, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None, "mosquitto did not start"
                assert time.monotonic() < deadline, "mosquitto does not listen"
                time.sleep(0.005)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


ALICE, BOB, EVE = (Identity.generate(name, bytes([n]) * 32) for n, name in enumerate(("alice", "bob", "eve")))


class Note(ProtoMessage):
    kind: ClassVar[str] = "test.note"
    number: int


def record(identity: Identity, seq: int = 1, machine: str = "") -> AddressRecord:
    now = time.time()
    return AddressRecord(
        name=identity.name,
        node_id=identity.public.node_id,
        seq=seq,
        issued_at=now,
        expires_at=now + 60,
        machine=machine,
    )


@asynccontextmanager
async def hub_with(
    urls: list[str], *identities: Identity, handler: Callable[[Received], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[SignalHub, list[Received]]]:
    """A hub that serves the identities, connected, and what its nodes received."""
    received: list[Received] = []

    async def collect(message: Received) -> None:
        received.append(message)

    async with SignalHub(MessageTypes([Note]), handler or collect) as hub:
        hub.trust([ALICE.public, BOB.public])
        for identity in identities:
            hub.open_node(identity, urls)
        for identity in identities:
            await hub.wait_connected(identity.name, 5)
        yield hub, received


async def test_a_message_arrives_once_with_its_sender_and_connection(mosquitto: Mosquitto) -> None:
    async with hub_with([mosquitto.url], ALICE, BOB) as (hub, received):
        rtts_ms = [1000 * await hub.send("alice", "bob", "c7", Note(number=n), 5) for n in range(50)]
    assert received == [Received("bob", "alice", "c7", Note(number=n)) for n in range(50)]
    print(f"signal and acknowledgement on loopback: median {statistics.median(rtts_ms):.2f} ms")


async def test_the_embedded_broker_serves_on_loopback_and_wants_its_login() -> None:
    async with EmbeddedBroker() as broker, hub_with([broker.url], ALICE, BOB) as (hub, received):
        hub.publish_record("bob", record(BOB))
        assert (await hub.record_of("alice", "bob", 5)).name == "bob"
        await hub.send("alice", "bob", "c", Note(number=1), 5)
        assert [message.message for message in received] == [Note(number=1)]
        port = broker.url.rpartition(":")[2]
        hub.open_node(EVE, [f"mqtt://warpfleet:guess@127.0.0.1:{port}"])
        with pytest.raises(MissingError, match=f"127.0.0.1:{port}") as caught:
            await hub.wait_connected("eve", 0.5)
        assert "guess" not in str(caught.value)


async def test_records_are_retained_and_the_newest_wins(mosquitto: Mosquitto) -> None:
    async with hub_with([mosquitto.url], BOB) as (hub, _):
        hub.publish_record("bob", record(BOB, seq=1, machine="old"))
        hub.publish_record("bob", record(BOB, seq=2, machine="new"))
        hub.trust([ALICE.public])
        async with hub_with([mosquitto.url], ALICE) as (other, _):
            assert (await other.record_of("alice", "bob", 5)).machine == "new"
            changed = asyncio.create_task(other.book.changed("bob"))
            hub.publish_record("bob", record(BOB, seq=3, machine="newest"))
            await asyncio.wait_for(changed, 5)
            assert (await other.record_of("alice", "bob", 5)).machine == "newest"
            signed = hub.signed_record("bob")
            assert signed is not None
            assert other.take_record("bob", signed).seq == 3
            with pytest.raises(RecordError, match="signed"):
                other.take_record("alice", signed)


async def test_what_does_not_come_ends_at_its_deadline(mosquitto: Mosquitto) -> None:
    async with hub_with([mosquitto.url], ALICE) as (hub, _):
        started = time.monotonic()
        with pytest.raises(PeerUnavailable, match="bob did not acknowledge"):
            await hub.send("alice", "bob", "c", Note(number=1), 0.3)
        with pytest.raises(PeerUnavailable, match="no address record of bob"):
            await hub.record_of("alice", "bob", 0.2)
        assert time.monotonic() - started < 1.5
        with pytest.raises(UntrustedPeer, match="eve"):
            await hub.send("alice", "eve", "c", Note(number=1), 1)
        with pytest.raises(InputError, match="carol"):
            await hub.send("carol", "bob", "c", Note(number=1), 1)


async def test_a_stranger_and_a_replay_are_dropped(mosquitto: Mosquitto) -> None:
    """A tap on the broker replays a genuine signal, and sends garbage; a stranger signals without being trusted."""
    async with (
        hub_with([mosquitto.url], ALICE, BOB) as (hub, received),
        aiomqtt.Client("127.0.0.1", mosquitto.port) as tap,
    ):
        hub.open_node(EVE, [mosquitto.url])
        with pytest.raises(PeerUnavailable):
            await hub.send("eve", "bob", "c", Note(number=666), 0.3)
        topic = inbox_topic(BOB.public.node_id)
        await tap.subscribe(topic)
        await hub.send("alice", "bob", "c", Note(number=1), 5)
        genuine = await anext(aiter(tap.messages))
        for payload in (genuine.payload, b"garbage", b"", genuine.payload):
            await tap.publish(topic, payload, qos=1)
        await hub.send("alice", "bob", "c", Note(number=2), 5)
        assert [message.message for message in received] == [Note(number=1), Note(number=2)]


async def test_a_slow_handler_does_not_hold_up_others(mosquitto: Mosquitto) -> None:
    first_runs = asyncio.Event()
    second_ran = asyncio.Event()

    async def handler(message: Received) -> None:
        if message.message == Note(number=1):
            first_runs.set()
            await second_ran.wait()
        else:
            assert first_runs.is_set()
            second_ran.set()

    async with hub_with([mosquitto.url], ALICE, BOB, handler=handler) as (hub, _):
        await hub.send("alice", "bob", "c", Note(number=1), 5)
        await hub.send("alice", "bob", "c", Note(number=2), 5)
        await asyncio.wait_for(second_ran.wait(), 5)


async def test_a_failing_handler_is_reported_and_harms_no_later_message(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(message: Received) -> None:
        raise RuntimeError(f"cannot take {message.message}")

    async with hub_with([mosquitto.url], ALICE, BOB, handler=handler) as (hub, _):
        for number in (1, 2):
            await hub.send("alice", "bob", "c", Note(number=number), 5)
    assert [record.exc_info is not None for record in caplog.records if "handling" in record.message] == [True, True]


async def test_a_broker_killed_in_mid_traffic_costs_time_and_no_message(mosquitto: Mosquitto) -> None:
    """Both nodes reconnect, subscribe again and publish their records again; every message arrives exactly once."""
    received: list[Received] = []
    under_way = asyncio.Event()

    async def collect(message: Received) -> None:
        received.append(message)
        if len(received) == 40:
            under_way.set()

    async with hub_with([mosquitto.url], ALICE, BOB, handler=collect) as (hub, _):
        hub.publish_record("bob", record(BOB))

        async def talk(lane: int) -> None:
            for step in range(25):
                await hub.send("alice", "bob", "c", Note(number=100 * lane + step), 10)

        lanes = [asyncio.create_task(talk(lane)) for lane in range(8)]
        await asyncio.wait_for(under_way.wait(), 10)
        await asyncio.to_thread(mosquitto.kill)
        assert len(received) < 200, "the broker was killed after all was said"
        await asyncio.to_thread(mosquitto.start)
        await asyncio.gather(*lanes)
        async with hub_with([mosquitto.url], ALICE) as (later, _):
            assert (await later.record_of("alice", "bob", 5)).seq == 1
    counts = Counter(message.message for message in received)
    assert counts == {Note(number=100 * lane + step): 1 for lane in range(8) for step in range(25)}


@contextmanager
def black_hole(accepting: bool) -> Iterator[str]:
    """A broker's URL where TCP connects and nothing answers, or where even the SYN is dropped (a full backlog)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100 if accepting else 0)
        port = listener.getsockname()[1]
        with socket.socket() as filler:
            if not accepting:
                filler.connect(("127.0.0.1", port))
            yield f"mqtt://127.0.0.1:{port}"


@pytest.mark.parametrize("accepting", [True, False])
async def test_a_black_hole_first_costs_nothing_where_a_second_broker_answers(
    mosquitto: Mosquitto, accepting: bool
) -> None:
    with black_hole(accepting) as hole:
        started = time.monotonic()
        async with hub_with([hole, mosquitto.url], ALICE, BOB) as (hub, received):
            await hub.send("alice", "bob", "c", Note(number=1), 5)
            assert time.monotonic() - started < 1.0
            assert len(received) == 1


async def test_a_loss_with_writes_queued_leaves_the_event_loop_clean(
    mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer must not be added for a file number that was closed, or is another socket's, since it was asked for."""
    nodes = [Identity.generate(f"node{n}", bytes([n, 1] * 16)) for n in range(40)]
    async with hub_with([mosquitto.url], *nodes) as (hub, received):
        hub.trust(node.public for node in nodes)
        mosquitto.kill()
        sends = [
            asyncio.create_task(hub.send(node.name, nodes[n - 1].name, "c", Note(number=n), 10))
            for n, node in enumerate(nodes)
        ]
        mosquitto.start()
        await asyncio.gather(*sends)
        assert len(received) == 40
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_nodes_on_different_brokers_of_the_list_still_meet(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Each reaches first the broker that the other cannot reach; they share the third."""
    alone = [Mosquitto(tmp_path), Mosquitto(tmp_path)]
    try:
        for broker in alone:
            broker.start()
        async with hub_with([], *()) as (hub, received):
            hub.open_node(ALICE, [alone[0].url, mosquitto.url])
            hub.open_node(BOB, [alone[1].url, mosquitto.url])
            await hub.send("alice", "bob", "c", Note(number=1), 5)
            await hub.send("bob", "alice", "c", Note(number=2), 5)
            assert len(received) == 2
    finally:
        for broker in alone:
            broker.kill()


async def test_the_socket_comes_from_the_vantage_and_in_a_thread(mosquitto: Mosquitto) -> None:
    """The contract with paho: it connects no socket itself, and Nagle's algorithm is off on ours."""
    assert callable(paho.mqtt.client.Client._create_socket_connection)
    made: list[tuple[socket.socket, threading.Thread]] = []

    def connect(host: str, port: int, timeout_s: float) -> socket.socket:
        made.append((connect_by_default_route(host, port, timeout_s), threading.current_thread()))
        return made[-1][0]

    async with SignalHub(MessageTypes(), lambda received: asyncio.sleep(0)) as hub:
        hub.open_node(ALICE, [mosquitto.url], connect)
        await hub.wait_connected("alice", 5)
        [(sock, thread)] = made
        assert thread is not threading.main_thread()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getpeername() == ("127.0.0.1", mosquitto.port)
    assert sock.fileno() == -1, "the socket outlives its hub"


def guarded_mosquitto(directory: Path) -> tuple[Mosquitto, str]:
    """A broker with TLS and one login (user@site, p:w/d), and its certificate's file."""
    key, certificate, logins = (str(directory / name) for name in ("key.pem", "cert.pem", "logins"))
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*request, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    subprocess.run(["mosquitto_passwd", "-c", "-b", logins, "user@site", "p:w/d"], check=True, capture_output=True)
    options = (f"certfile {certificate}", f"keyfile {key}", f"password_file {logins}")
    return Mosquitto(directory, *options, first="allow_anonymous false"), certificate


async def test_a_broker_with_tls_and_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker, certificate = guarded_mosquitto(tmp_path)
    broker.start()
    try:
        url = f"mqtts://user%40site:p%3Aw%2Fd@127.0.0.1:{broker.port}"
        async with SignalHub(MessageTypes(), lambda received: asyncio.sleep(0)) as hub:
            hub.open_node(ALICE, [url])
            with pytest.raises(MissingError, match="certificate"):
                await hub.wait_connected("alice", 1)
            monkeypatch.setenv("SSL_CERT_FILE", certificate)
            await hub.wait_connected("alice", 5)
    finally:
        broker.kill()


async def test_closing_while_nothing_answers_is_quick_and_leaves_no_task() -> None:
    with black_hole(accepting=True) as hole, black_hole(accepting=False) as closed:
        before = asyncio.all_tasks()
        async with hub_with([], *()) as (hub, _):
            hub.open_node(ALICE, [hole, closed])
            with pytest.raises(MissingError, match="no MQTT broker answered"):
                await hub.wait_connected("alice", 0.2)
            started = time.monotonic()
        assert time.monotonic() - started < 0.5
        assert asyncio.all_tasks() == before
