"""One node's end of the signal channel: messages out until they are acknowledged, messages in once each."""

import asyncio
import logging
import random
import secrets
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.retry import RoundTrip
from warpfleet.signal.bundle import Bundle, Letter, bundled, unbundled
from warpfleet.signal.channel import MqttChannel
from warpfleet.signal.delivery import Delivery
from warpfleet.signal.envelope import (
    MAX_ENVELOPE_BYTES,
    MESSAGE_ID_BYTES,
    EnvelopeError,
    Freshness,
    Header,
    Opened,
    ReplayGuard,
    check_text,
    open_envelope,
    seal,
)
from warpfleet.signal.link import MqttLink
from warpfleet.signal.messages import Ack, MessageTypes, ProtoMessage
from warpfleet.signal.record import AddressRecord, RecordBook, RecordError, SignedRecord, inbox_topic, record_topic
from warpfleet.signal.roster import Roster

_MESSAGE_MAX_BYTES = MAX_ENVELOPE_BYTES - 1_024  # for what an envelope has besides
_ACK_LIFETIME_S = 10.0  # longer than any link holds a message back
_COPIES_KEPT = 4_096  # copies come within a second or two of one another
_MAX_HANDLERS = 1_024  # beyond it messages are not acknowledged, and so come again later
_WINDOW = 64  # transmissions of one process that wait for their first answer: some 60 ms of work, below any retry timer
_WINDOW_HELD_S = 0.2  # so that a slow network, which the work does not wait for, leaves 320 transmissions a second

log = logging.getLogger(__name__)


class PeerUnavailable(WarpfleetError):
    """The peer did not acknowledge a message, or no record of it came, before the deadline."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message that arrived at `node`; it was signed by `sender`, and is delivered once."""

    node: str
    sender: str
    connection_id: str
    message: ProtoMessage


Handler = Callable[[Received], Awaitable[None]]


@dataclass
class House:
    """What all mailboxes of a process share. `now` is the wall clock, in seconds since 1970."""

    types: MessageTypes
    handler: Handler
    now: Callable[[], float]
    roster: Roster = field(default_factory=Roster)
    book: RecordBook = field(default_factory=RecordBook)
    window: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WINDOW))

    def __post_init__(self) -> None:
        self.types.register(Bundle)


class _Way(NamedTuple):
    """To whom, and by which link, if that is up, or by every one."""

    peer: PublicIdentity
    link: MqttLink | None
    everywhere: bool = False


@dataclass
class _Flight:
    peer: PublicIdentity
    delivery: Delivery
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def woken(self, latest: float) -> None:
        """Return once there is something new, or at this time of the event loop."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(latest):
                await self.wake.wait()


class _Copies:
    """Tells the copies of one transmission apart from the first: each link brings one, and each would cost an opening
    and an acknowledgement, which in turn comes back on every link. A repeated transmission is sealed anew."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._order: deque[int] = deque()

    def is_new(self, payload: bytes) -> bool:
        """Whether these bytes have not come before, among the last `_COPIES_KEPT`."""
        digest = hash(payload)
        if digest in self._known:
            return False
        self._known.add(digest)
        self._order.append(digest)
        if len(self._order) > _COPIES_KEPT:
            self._known.discard(self._order.popleft())
        return True


class Mailbox:
    """Sends and receives for one identity. The channel is opened by `make_channel(on_message, on_up)`."""

    def __init__(
        self,
        identity: Identity,
        house: House,
        make_channel: Callable[[Callable[[MqttLink, str, bytes], None], Callable[[], None]], MqttChannel],
    ) -> None:
        self.identity = identity
        self.record: SignedRecord | None = None
        self._house = house
        self._inbox = inbox_topic(identity.public.node_id)
        self._guards: defaultdict[str, ReplayGuard] = defaultdict(ReplayGuard)  # by sender: none floods another's
        self._copies = _Copies()
        self._flights: dict[bytes, _Flight] = {}
        self._round_trips: dict[str, RoundTrip] = {}
        self._heard_on: dict[str, MqttLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outgoing: dict[_Way, list[Letter]] = {}  # of this turn of the event loop
        self.channel = make_channel(self._receive, self._hurry)
        self.channel.subscribe([self._inbox])
        self.channel.start()

    def publish_record(self, record: AddressRecord) -> None:
        """Sign the node's address record and have the brokers retain it. Does not wait for them."""
        self.record = SignedRecord.sign(record, self.identity)
        self.channel.retain(record_topic(self.identity.public.node_id), self.record.encode())

    def watch(self, peers: Iterable[str]) -> None:
        """Hear the records of these peers from now on; UntrustedPeer where one is not in the roster."""
        self.channel.subscribe([record_topic(self._house.roster.named(peer).node_id) for peer in peers])

    async def record_of(self, peer: str, timeout_s: float) -> AddressRecord:
        """The newest valid record of a peer. PeerUnavailable where none came before the deadline, or UntrustedPeer."""
        self.watch([peer])
        house = self._house
        try:
            async with asyncio.timeout(timeout_s):
                while (record := house.book.get(peer, house.now())) is None:
                    await house.book.changed(peer)
        except TimeoutError as error:
            raise PeerUnavailable(f"no address record of {peer} within {timeout_s:g} s") from error
        return record

    async def send(self, to: str, connection_id: str, message: ProtoMessage, deadline_s: float) -> float:
        """Send until the peer acknowledges; the round trip in seconds. PeerUnavailable at the deadline (from now, in
        seconds), UntrustedPeer where the peer is not in the roster, ValueError where the message is too long."""
        peer = self._house.roster.named(to)
        if len(message.model_dump_json().encode()) > _MESSAGE_MAX_BYTES:
            raise ValueError(f"a {message.kind} message exceeds {_MESSAGE_MAX_BYTES} bytes")
        check_text(connection_id)
        delivery = Delivery(self._round_trips.setdefault(peer.node_id, RoundTrip()), random.random)
        header = Header(secrets.token_bytes(MESSAGE_ID_BYTES), connection_id, self._house.now() + deadline_s)
        flight = self._flights[header.message_id] = _Flight(peer, delivery)
        try:
            async with asyncio.timeout(deadline_s):
                return await self._transmit(flight, header, message)
        except TimeoutError as error:
            raise PeerUnavailable(f"{to} did not acknowledge {message.kind} within {deadline_s:g} s") from error
        finally:
            del self._flights[header.message_id]

    async def close(self) -> None:
        """Disconnect; what is being handled or sent is cancelled."""
        self._flush()
        await self.channel.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _transmit(self, flight: _Flight, header: Header, message: ProtoMessage) -> float:
        """Transmit until acknowledged. A place in the window is held until the answer, or for a while: so a burst
        queues here instead of setting off every retry timer at once, and absent peers block nobody for long."""
        while flight.delivery.rtt_s is None:
            await self.channel.wait_up()
            async with self._house.window:
                self._transmit_once(flight, header, message)
                await flight.woken(asyncio.get_running_loop().time() + _WINDOW_HELD_S)
            await flight.woken(flight.delivery.due_at)
            flight.wake.clear()
        return flight.delivery.rtt_s

    def _transmit_once(self, flight: _Flight, header: Header, message: ProtoMessage) -> None:
        peer = flight.peer
        transmission = flight.delivery.transmit(asyncio.get_running_loop().time())
        way = _Way(peer, self._heard_on.get(peer.node_id), everywhere=transmission > 1)
        self._mail(way, Letter(replace(header, transmission=transmission), message))

    def _mail(self, way: _Way, letter: Letter) -> None:
        """Send it in this turn of the event loop, with what else goes that way."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.setdefault(way, []).append(letter)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for way, letters in outgoing.items():
            topic = inbox_topic(way.peer.node_id)
            for header, message in bundled(letters):
                data = seal(message, header, self.identity, way.peer)
                if way.everywhere:
                    self.channel.publish_everywhere(topic, data)
                else:
                    self.channel.publish(topic, data, way.link)

    def _hurry(self) -> None:
        """A link has come up: what waits for an acknowledgement goes out again at once."""
        for flight in self._flights.values():
            flight.wake.set()

    def _receive(self, link: MqttLink, topic: str, payload: bytes) -> None:
        if topic == self._inbox:
            if self._copies.is_new(payload):
                self._receive_signal(link, payload)
        else:
            self._receive_record(topic, payload)

    def _receive_record(self, topic: str, payload: bytes) -> None:
        node_id, _, rest = topic.removeprefix("warpfleet/1/").partition("/")
        public = self._house.roster.by_node_id.get(node_id) if rest == "record" else None
        if public is None:
            return
        try:
            self._house.book.put(payload, public, self._house.now())
        except RecordError as error:
            log.debug("%s drops a record: %s", self.identity.name, error)

    def _receive_signal(self, link: MqttLink, payload: bytes) -> None:
        house, now = self._house, self._house.now()
        try:
            opened = open_envelope(payload, self.identity, house.roster.by_node_id, house.types, now)
        except EnvelopeError as error:
            self._drop(error)
            return
        self._heard_on[opened.sender.node_id] = link
        for one in unbundled(opened, house.types, now):
            if isinstance(one, EnvelopeError):
                self._drop(one)
            elif isinstance(one.message, Ack):
                self._settle(one.sender, one.message)
            elif len(self._tasks) < _MAX_HANDLERS:
                self._take(link, one, now)

    def _drop(self, error: EnvelopeError) -> None:
        log.debug("%s drops a signal: %s: %s", self.identity.name, type(error).__name__, error)

    def _settle(self, sender: PublicIdentity, ack: Ack) -> None:
        flight = self._flights.get(ack.message_id)
        now = asyncio.get_running_loop().time()
        if flight is not None and flight.peer == sender and flight.delivery.acknowledge(ack.transmission, now):
            flight.wake.set()

    def _take(self, link: MqttLink, opened: Opened, now: float) -> None:
        freshness = self._guards[opened.sender.node_id].admit(opened, now)
        if freshness is Freshness.FORGOTTEN:
            log.warning("%s is flooded: a signal of %s is dropped", self.identity.name, opened.sender.name)
            return
        task = asyncio.get_running_loop().create_task(self._answer(link, opened, new=freshness is Freshness.NEW))
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    async def _answer(self, link: MqttLink, opened: Opened, *, new: bool) -> None:
        """Acknowledge by the link that the message came by, and hand it on if it is new."""
        sender, header = opened.sender, opened.header
        ack = Ack(message_id=header.message_id, transmission=header.transmission)
        ack_header = Header(
            secrets.token_bytes(MESSAGE_ID_BYTES), header.connection_id, self._house.now() + _ACK_LIFETIME_S
        )
        self._mail(_Way(sender, link), Letter(ack_header, ack))
        if new:
            await self._house.handler(Received(self.identity.name, sender.name, header.connection_id, opened.message))

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: handling a signal failed", self.identity.name, exc_info=error)
