"""One node's connection to one MQTT broker, for as long as the node lives. The only module that knows aiomqtt and paho.

What a node wants of a broker is a state (subscriptions, retained messages). The link brings the broker to that state
whenever it is connected, again after every loss, and again whenever the wish changes.
"""

import asyncio
import logging
import random
import secrets
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt.types import PahoSocket
from paho.mqtt.enums import MQTTErrorCode

from warpfleet.core.errors import WarpfleetError
from warpfleet.core.retry import retry_delays
from warpfleet.signal.broker_url import BrokerUrl

ConnectSocket = Callable[[str, int, float], socket.socket]
"""(host, port, timeout_s) -> a connected TCP socket of the node's vantage, OSError or WarpfleetError. It blocks."""

_CONNECT_TIMEOUT_S = 5.0  # three SYNs (at 0, 1 and 3 s) and an answer
_REPLY_TIMEOUT_S = 5.0  # for CONNACK, SUBACK and PUBACK: a broker that takes longer counts as lost
_USER_TIMEOUT_MS = 5_000  # unacknowledged data for this long: the path is dead (RFC 5482)
_KEEPALIVE_S = 15  # below the shortest idle lifetimes of TCP mappings seen, and a silent loss shows within twice that
_FIRST_RECONNECT_S = 0.05  # a broker that restarts is back in tens of milliseconds
_MAX_RECONNECT_S = 2.0  # a node is never longer without signals than this after its broker came back
_FLUSH_S = 0.5  # what was queued just before closing, such as an acknowledgement, still leaves
_TOPICS_PER_SUBSCRIBE = 100  # keeps the packet small enough for any broker's limit

log = logging.getLogger(__name__)


@dataclass
class Wish:
    """What a node wants of every broker: topics it hears, and the payload retained on topics of its own."""

    topics: set[str] = field(default_factory=set)
    retained: dict[str, bytes] = field(default_factory=dict)


class MqttLink:
    """Connects, keeps connected, and carries messages at QoS 0. `start` once, `close` once."""

    def __init__(
        self,
        url: BrokerUrl,
        wish: Wish,
        *,
        connect_socket: ConnectSocket,
        executor: Executor,
        on_message: Callable[["MqttLink", str, bytes], None],
        on_change: Callable[[], None],
    ) -> None:
        self.url = url
        self.last_error = "not tried yet"
        self._wish = wish
        self._connect_socket = connect_socket
        self._executor = executor
        self._on_message = on_message
        self._on_change = on_change
        self._client: aiomqtt.Client | None = None
        self._wish_changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the broker is connected and has once been brought to the wished state."""
        return self._client is not None

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"signal link {self.url}")

    def wish_changed(self) -> None:
        """The wish has new topics or payloads: bring the broker to it."""
        self._wish_changed.set()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Queue one message for the broker at QoS 0; False where the link is down. Whether it arrives is not known.

        Past aiomqtt, whose `publish` waits for the write, and for its whole timeout where the connection is lost.
        """
        if self._client is None:
            return False
        return self._client._client.publish(topic, payload, qos=0).rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    async def close(self) -> None:
        """Disconnect, and end the background task."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            delays = retry_delays(_FIRST_RECONNECT_S, _MAX_RECONNECT_S, random.random)
            for delay_s in delays:
                was_up = await self._session()
                log.debug("%s: %s; next try in %.2f s", self.url, self.last_error, delay_s)
                await asyncio.sleep(delay_s)
                if was_up:
                    break

    async def _session(self) -> bool:
        """One connection from its start to its loss; whether it was ever up."""
        client: aiomqtt.Client | None = None
        was_up = False
        try:
            client = await self._connect()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(client))
                group.create_task(self._fulfil(client))
        except* (aiomqtt.MqttError, OSError, ValueError, WarpfleetError) as errors:
            self.last_error = str(errors.exceptions[0])
        finally:
            was_up, self._client = self._client is not None, None
            if was_up:
                self._on_change()
            if client is not None:
                await _drop(client, flush_s=_FLUSH_S)
        return was_up

    async def _connect(self) -> aiomqtt.Client:
        """A client that has its CONNACK. Nothing is left open where this fails or is cancelled."""
        opening = self._executor.submit(open_socket, self.url, self._connect_socket)
        try:
            sock = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_result)
            raise
        client = _Client(
            self.url.host,
            self.url.port,
            username=self.url.username,
            password=self.url.password,
            identifier=f"wf{secrets.token_hex(10)}",  # at most 23 characters: MQTT 3.1.1 section 3.1.3.1
            timeout=_REPLY_TIMEOUT_S,
            keepalive=_KEEPALIVE_S,
            logger=logging.getLogger(f"{__name__}.paho"),
        )
        client.pending_calls_threshold = 1_000_000  # no warning: all calls in flight are the link's own
        client._client._create_socket_connection = lambda: sock  # type: ignore[method-assign]
        try:
            return await client.__aenter__()
        except BaseException:
            await _drop(client, flush_s=0.0)
            sock.close()
            raise

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            if isinstance(message.payload, bytes):
                self._on_message(self, message.topic.value, message.payload)

    async def _fulfil(self, client: aiomqtt.Client) -> None:
        """Bring the broker to the wished state; up from the first time on, again at every change."""
        subscribed: set[str] = set()
        published: dict[str, bytes] = {}
        while True:
            self._wish_changed.clear()
            missing = sorted(self._wish.topics - subscribed)
            for at in range(0, len(missing), _TOPICS_PER_SUBSCRIBE):
                await self._subscribe(client, missing[at : at + _TOPICS_PER_SUBSCRIBE])
            subscribed.update(missing)
            for topic, payload in list(self._wish.retained.items()):
                if published.get(topic) != payload:
                    await client.publish(topic, payload, qos=1, retain=True)
                    published[topic] = payload
            if not self.up:
                self._client = client
                self._on_change()
            # Python 3.11's wait_for, beneath the client's calls, loses a cancellation that comes with their answer.
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError
            await self._wish_changed.wait()

    async def _subscribe(self, client: aiomqtt.Client, topics: list[str]) -> None:
        codes = await client.subscribe([(topic, 0) for topic in topics])
        if any(getattr(code, "is_failure", False) for code in codes):
            raise aiomqtt.MqttError("the broker refused a subscription")


def open_socket(url: BrokerUrl, connect_socket: ConnectSocket) -> socket.socket:
    """A connected socket to the broker, TLS included, without Nagle's algorithm. OSError where that fails. Blocks."""
    sock = connect_socket(url.host, url.port, _CONNECT_TIMEOUT_S)
    try:
        sock.settimeout(_CONNECT_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        if url.tls:
            return ssl.create_default_context().wrap_socket(sock, server_hostname=url.host)
    except BaseException:
        sock.close()
        raise
    return sock


class _Client(aiomqtt.Client):
    """aiomqtt's client, which asks for a writer by the number of a file that may be closed, or another's, by then."""

    def _on_socket_register_write(self, client: paho.Client, userdata: object, sock: PahoSocket) -> None:
        def register() -> None:
            if client.socket() is sock and sock is not None:
                self._loop.add_writer(sock.fileno(), client.loop_write)

        self._loop.call_soon_threadsafe(register)


async def _drop(client: aiomqtt.Client, flush_s: float) -> None:
    """Write what is queued, if that takes no longer than `flush_s`; close the socket and see the client's task end."""
    await asyncio.sleep(0)  # what paho's thread asked of the event loop is in place before it is undone
    if client._client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS and flush_s > 0:
        await asyncio.wait([client._disconnected], timeout=flush_s)
    client._client._sock_close()
    if client._misc_task is not None:
        client._misc_task.cancel()
        await asyncio.wait([client._misc_task])


def _close_result(opening: "Future[socket.socket]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
