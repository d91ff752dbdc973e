"""The signal channel of one host: a mailbox for each of its nodes, one roster and one book of records for all."""

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from warpfleet.core.errors import InputError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.signal.broker_url import BrokerUrl
from warpfleet.signal.channel import MqttChannel
from warpfleet.signal.link import ConnectSocket
from warpfleet.signal.mailbox import Handler, House, Mailbox
from warpfleet.signal.messages import MessageTypes, ProtoMessage
from warpfleet.signal.record import AddressRecord, RecordBook

_CONNECTING_THREADS = 32  # sockets connect in threads; brokers that are down each hold one for seconds


def connect_by_default_route(host: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP socket in this process's own network namespace, connected by its routes."""
    return socket.create_connection((host, port), timeout=timeout_s)


class SignalHub:
    """Everything a host says and hears on the signal channel. For one event loop.

    `handler` is awaited once for each message that arrives, in a task of its own: it may take its time. Messages may
    overtake one another. `now` is the wall clock in seconds since 1970, best corrected by `clock.measure`.
    """

    def __init__(self, types: MessageTypes, handler: Handler, now: Callable[[], float] = time.time) -> None:
        self._house = House(types, handler, now)
        self._mailboxes: dict[str, Mailbox] = {}
        self._executor = ThreadPoolExecutor(_CONNECTING_THREADS, thread_name_prefix="signal-connect")

    @property
    def book(self) -> RecordBook:
        """The records heard so far."""
        return self._house.book

    def trust(self, identities: Iterable[PublicIdentity]) -> None:
        """Accept messages and records of these nodes, and allow sending to them."""
        self._house.roster.trust(identities)

    def open_node(
        self, identity: Identity, urls: Sequence[str], connect_socket: ConnectSocket = connect_by_default_route
    ) -> None:
        """Begin to serve a node: connect to all brokers in the background. InputError for a wrong URL or a node that is
        open already."""
        if identity.name in self._mailboxes:
            raise InputError(f"node {identity.name} is open already")
        brokers = [BrokerUrl.parse(url) for url in urls]
        self._mailboxes[identity.name] = Mailbox(
            identity,
            self._house,
            lambda on_message, on_up: MqttChannel(brokers, connect_socket, self._executor, on_message, on_up),
        )

    async def wait_connected(self, node: str, timeout_s: float) -> None:
        """Return once a broker hears the node and has its record. MissingError at the deadline."""
        await self._mailbox(node).channel.wait_connected(timeout_s)

    async def close_node(self, node: str) -> None:
        """Stop serving a node; what is being sent for it ends at its deadlines."""
        mailbox = self._mailboxes.pop(node, None)
        if mailbox is not None:
            await mailbox.close()

    def publish_record(self, node: str, record: AddressRecord) -> None:
        """Sign a node's address record and have the brokers retain it, also after they restart."""
        self._mailbox(node).publish_record(record)

    def signed_record(self, node: str) -> bytes | None:
        """The node's own record as it was last published, signed."""
        record = self._mailbox(node).record
        return None if record is None else record.encode()

    def take_record(self, peer: str, data: bytes) -> AddressRecord:
        """Take a signed record that came by another way than the broker. RecordError or UntrustedPeer."""
        return self.book.put(data, self._house.roster.named(peer), self._house.now())

    def watch(self, node: str, peers: Iterable[str]) -> None:
        """Hear the records of these peers by the node's own connection, from now on. UntrustedPeer."""
        self._mailbox(node).watch(peers)

    async def record_of(self, node: str, peer: str, timeout_s: float) -> AddressRecord:
        """The newest valid record of a peer. PeerUnavailable at the deadline, or UntrustedPeer."""
        return await self._mailbox(node).record_of(peer, timeout_s)

    async def send(self, node: str, to: str, connection_id: str, message: ProtoMessage, deadline_s: float) -> float:
        """Send from a node of this host until the peer acknowledges; the round trip in seconds.

        PeerUnavailable at the deadline (seconds from now), UntrustedPeer, or ValueError where the message is too long.
        """
        return await self._mailbox(node).send(to, connection_id, message, deadline_s)

    async def close(self) -> None:
        """Close every node."""
        for node in list(self._mailboxes):
            await self.close_node(node)
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _mailbox(self, node: str) -> Mailbox:
        try:
            return self._mailboxes[node]
        except KeyError:
            raise InputError(f"node {node} is not open on this host") from None
