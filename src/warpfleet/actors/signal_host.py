"""The role that speaks for a host's nodes: their signal channel, what they know of their own network, their records."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from pydantic import SecretStr

from warpfleet.actors.coordinator import RecordView
from warpfleet.actors.nat_memory import NatMemory
from warpfleet.actors.outbox import Outbox
from warpfleet.actors.own_node import RECORD_LIFETIME_S, NodeReport, OwnNode
from warpfleet.actors.shared_probes import SharedProbes
from warpfleet.actors.values import IncomingSignal, NodeSpec, OutgoingSignal, StandingPorts
from warpfleet.actors.work import Work
from warpfleet.configs.fleet import Broker
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.errors import MissingError
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.net.interfaces import Unreachable
from warpfleet.net.lifetime import mapping_lifetime_s
from warpfleet.net.natprobe import NatReport
from warpfleet.net.network import KernelNetwork
from warpfleet.plugins.attempt_messages import Abandon, AttemptMessage
from warpfleet.plugins.loader import message_owners, message_types
from warpfleet.signal.clock import ClockEstimate, measure
from warpfleet.signal.hub import SignalHub
from warpfleet.signal.mailbox import PeerUnavailable, Received
from warpfleet.signal.record import AddressRecord, RecordError
from warpfleet.signal.roster import UntrustedPeer

_CONNECT_S = 15.0  # for the first connection to a broker, failover to the last of several included
_NTP_S = 2.0
_RECORDS_S = 15.0  # until every peer's record has come from the brokers
_SETTLED_S = 30.0  # a short sweep is over by then, and measures no lifetimes
_FAREWELL_S = 0.5  # for what is being said when we close, such as that attempts are given up: an answer or two

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignalPorts:
    """Whom a signal host talks to."""

    deliver: Mapping[str, Callable[[list[IncomingSignal]], Awaitable[None]]]
    """By plugin: takes messages from peers."""
    learn: Callable[[dict[str, RecordView]], Awaitable[None]]
    """Takes address records, as they become known."""
    memory: NatMemory | None = None
    """Spares probes where the NATs at a node's exit are known."""
    take_views: Mapping[str, Callable[[dict[str, PeerView], float], Awaitable[None]]] = field(default_factory=dict)
    """By plugin: takes what the nodes' own address records say from now on, and how far the clock is behind."""


class SignalHost:
    """Signals, records and clocks of one host's nodes; a plain class."""

    def __init__(self) -> None:
        self._clock: ClockEstimate | None = None  # this machine's, by the node that knows it best
        self._hub = SignalHub(message_types(), self._handle, self._now)
        self._owners = message_owners()
        self._nodes: dict[str, OwnNode] = {}
        self._mapped: dict[str, tuple[Endpoint, ...]] = {}  # as told, also before a node is open
        self._standing: dict[str, dict[str, dict[AddressFamily, int]]] = {}  # by node and plugin
        self._take_views: dict[str, Callable[[dict[str, PeerView], float], Awaitable[None]]] = {}
        self._outboxes: dict[str, Outbox[IncomingSignal, None]] = {}
        self._ports: SignalPorts | None = None
        self._work = Work()
        self._sending = Work()
        self._watched: set[str] = set()
        self._closed = asyncio.Event()

    def bind(self, ports: SignalPorts) -> None:
        """Learn whom to talk to; plugin hosts that are named again replace those before."""
        self._ports = ports
        self._outboxes.update({plugin: Outbox(deliver) for plugin, deliver in ports.deliver.items()})
        self._take_views.update(ports.take_views)

    async def open_nodes(
        self,
        specs: Sequence[NodeSpec],
        listeners: Mapping[str, Sequence[Endpoint]],
        roster: Sequence[PublicIdentity],
        reports: Sequence[NodeReport] = (),
        *,
        patience_s: float | None = None,
    ) -> list[NodeReport]:
        """Connect, probe and publish every node, then wait until the record of every peer is known. Those that the host
        before this one has `reports` of are not probed again.

        Probes and NTP servers that take longer than `patience_s` are not waited for once a node's external address is
        known: what they show is published then, and told to whoever plans and runs attempts.

        MissingError where a broker, a STUN server or a peer's record is out of reach.
        """
        self._hub.trust(roster)
        for spec in specs:
            self._nodes[spec.name] = OwnNode(spec, listeners.get(spec.name, ()))
            urls = [broker_url(broker) for broker in spec.brokers]
            self._hub.open_node(spec.identity, urls, spec.vantage.connect_blocking)
        probes = SharedProbes(self._ports.memory if self._ports else None, self._now)
        known = {report.name: report.nats for report in reports}
        nodes = [self._nodes[spec.name] for spec in specs]
        exploring = [self._work.start(self._explore(node, probes, known.get(node.spec.name))) for node in nodes]
        opening = (self._open(*one, patience_s) for one in zip(nodes, exploring, strict=True))
        await asyncio.gather(*opening)
        concluding = self._work.start(self._conclude(nodes, exploring, probes))
        if patience_s is None:
            await concluding
        if specs:
            await self._watch(specs[0].name, [identity.name for identity in roster], wait=True)
        return [node.report for node in nodes]

    async def reports(self) -> list[NodeReport]:
        """What the nodes have found out about themselves by now."""
        return [node.report for node in self._nodes.values() if node.view]

    async def trust(self, node: str, identities: Sequence[PublicIdentity]) -> None:
        """Exchange signals with these peers, too, and hear their records by this node's connection, as they come."""
        self._hub.trust(identities)
        await self._watch(node, [identity.name for identity in identities], wait=False)

    async def relisten(self, listeners: Mapping[str, Sequence[Endpoint]]) -> None:
        """Publish new listeners of nodes, since the process that had the old ones is gone."""
        for name, endpoints in listeners.items():
            node = self._nodes.get(name)
            if node and node.view:
                node.view = replace(node.view, listeners=tuple(endpoints))
                self._publish(node)

    async def remap(self, mapped: Sequence[tuple[str, tuple[Endpoint, ...]]]) -> None:
        """Publish where port mappings let strangers in to nodes, and tell it to whoever plans and runs attempts."""
        self._mapped.update(mapped)
        await self._tell_changes([name for name, _ in mapped])

    async def stand(self, told: Sequence[StandingPorts]) -> None:
        """The same for the UDP ports of nodes that always hear."""
        for node, plugin, ports in told:
            self._standing.setdefault(node, {})[plugin] = ports
        await self._tell_changes([ports.node for ports in told])

    async def _tell_changes(self, names: Iterable[str]) -> None:
        changed: list[OwnNode] = []
        for node in (self._nodes[name] for name in names if name in self._nodes):
            if node.view and (view := self._with_ports(node.view)) != node.view:
                node.view = view
                changed.append(node)
        if changed:
            await self._tell(changed)

    def _with_ports(self, view: PeerView) -> PeerView:
        """The same with what plugins have said of the node's ports."""
        standing = {plugin: ports for plugin, ports in self._standing.get(view.name, {}).items() if ports}
        return replace(view.with_mapped(self._mapped.get(view.name, ())), standing=standing)

    async def tell_records(self) -> None:
        """Say again what is known of every peer: the coordinator is a new one."""
        known = (self._hub.book.get(peer, self._now()) for peer in self._watched)
        await self._learn(*(record for record in known if record))

    async def close_nodes(self, names: Sequence[str]) -> None:
        """Stop speaking for these nodes."""
        for name in names:
            self._nodes.pop(name, None)
            self._mapped.pop(name, None)
            self._standing.pop(name, None)
            await self._hub.close_node(name)

    async def post(self, signals: Sequence[OutgoingSignal]) -> None:
        """Send messages to peers; one that is not acknowledged in time comes back as a failure of its attempt."""
        for signal in signals:
            self._sending.start(self._send(signal))

    async def own_record(self, node: str) -> bytes:
        """A node's current record, signed and encoded."""
        return self._hub.signed_record(node) or b""

    async def learn_record(self, peer: str, signed: bytes) -> bool:
        """Take a record that the peer itself sent; whether it is valid and the newest."""
        try:
            record = self._hub.take_record(peer, signed)
        except (RecordError, UntrustedPeer) as error:
            _log.warning("record of %s refused: %s", peer, error)
            return False
        await self._learn(record)
        return True

    async def serve(self) -> None:
        """Return when closed; whoever awaits this learns at once when the process dies."""
        await self._closed.wait()

    async def close(self) -> None:
        """Close every node."""
        await self._sending.cancel(after_s=_FAREWELL_S)
        await self._work.cancel()
        await self._hub.close()
        await asyncio.gather(*(outbox.drain() for outbox in self._outboxes.values()))
        self._closed.set()

    async def _open(self, node: OwnNode, exploring: asyncio.Task[None], patience_s: float | None) -> None:
        await asyncio.gather(self._connected(node.spec), node.explored(exploring, patience_s))
        self._look(node)
        self._publish(node)
        self._work.start(self._republish(node))

    async def _explore(self, node: OwnNode, probes: SharedProbes, known: dict[AddressFamily, NatReport] | None) -> None:
        """Find out what is before a node, and how far its clock is off; what comes after it is open is told."""

        async def found(looking: Awaitable[None]) -> None:
            await looking
            if node.view:
                self._look(node)
                await self._tell([node])

        await asyncio.gather(found(self._read_clock(node)), found(node.discover(probes, known)))

    async def _read_clock(self, node: OwnNode) -> None:
        node.clock = clock = await measure(node.spec.ntp, _NTP_S, node.spec.vantage.call_inside)
        if clock and (self._clock is None or clock.error_s < self._clock.error_s):
            self._clock = clock

    async def _conclude(
        self, nodes: Sequence[OwnNode], exploring: Sequence[asyncio.Task[None]], probes: SharedProbes
    ) -> None:
        """Have what was found out remembered, and measure what takes minutes."""
        await asyncio.gather(*exploring)
        await probes.remember()
        self._measure_lifetimes(nodes)

    def _look(self, node: OwnNode) -> None:
        """Sum up what is known of a node by now."""
        node.view = self._with_ports(node.look())

    async def _tell(self, nodes: Sequence[OwnNode]) -> None:
        """Publish what has become of these nodes, and tell it to whoever plans and runs attempts."""
        for node in nodes:
            self._publish(node)
        views = {node.spec.name: node.view for node in nodes if node.view}
        assert self._ports is not None
        await self._ports.learn({name: RecordView(view, math.inf) for name, view in views.items()})
        offset_s = self._clock.offset_s if self._clock else 0.0
        takers = (take(views, offset_s) for take in self._take_views.values())
        await asyncio.gather(*takers, return_exceptions=True)  # whoever has died is told as it is replaced

    def _measure_lifetimes(self, nodes: Sequence[OwnNode]) -> None:
        """Find out in the background, once for each exit, how long an idle mapping lives, where that is not known."""
        first: dict[Exit, tuple[OwnNode, AddressFamily]] = {}
        for node in nodes:
            for af, nat in node.view.nat.items() if node.view else ():
                if nat.udp and not nat.open and nat.lifetime_s is None:
                    first.setdefault(node.exit(af), (node, af))
        for node, af in first.values():
            self._work.start(self._measure_lifetime(node, af))

    async def _measure_lifetime(self, node: OwnNode, af: AddressFamily) -> None:
        await asyncio.sleep(_SETTLED_S)
        network = KernelNetwork(node.spec.vantage)
        server = next(server for server in node.spec.stun if server.af == af)
        try:
            lifetime_s = await mapping_lifetime_s(network, server)
        except (Unreachable, OSError) as error:
            _log.info("the lifetime of mappings of %s is not known: %s", node.spec.name, error)
            return
        place = node.exit(af)
        for other in self._nodes.values():
            if other.view and af in other.view.nat and other.exit(af) == place:
                nat = replace(other.view.nat[af], lifetime_s=lifetime_s)
                other.view = replace(other.view, nat={**other.view.nat, af: nat})
        memory = self._ports.memory if self._ports else None
        if memory and lifetime_s is not None and node.view and node.view.nat[af].complete:
            await memory.remember([KnownNat(place, node.view.nat[af], self._now())])

    async def _connected(self, spec: NodeSpec) -> None:
        try:
            await self._hub.wait_connected(spec.name, _CONNECT_S)
        except MissingError:
            brokers = ", ".join(str(broker) for broker in spec.brokers)
            message = f"node {spec.name}: no MQTT broker answered ({brokers}); start one, or mend services.mqtt"
            raise MissingError(message) from None

    def _now(self) -> float:
        """The wall clock in seconds since 1970, corrected by what NTP servers said."""
        return time.time() + (self._clock.offset_s if self._clock else 0.0)

    def _publish(self, node: OwnNode) -> None:
        self._hub.publish_record(node.spec.name, node.next_record(self._now()))

    async def _republish(self, node: OwnNode) -> None:
        while True:
            await asyncio.sleep(RECORD_LIFETIME_S / 2)
            self._publish(node)

    async def _watch(self, node: str, peers: Sequence[str], *, wait: bool) -> None:
        self._hub.watch(node, peers)
        new = [peer for peer in peers if peer not in self._watched]
        self._watched.update(new)
        first: list[AddressRecord | None] = [None] * len(new)
        if wait:
            first = list(await asyncio.gather(*(self._first(node, peer) for peer in new)))
            await self._learn(*(record for record in first if record))
        for peer, known in zip(new, first, strict=True):
            self._work.start(self._follow(peer, known))

    async def _first(self, node: str, peer: str) -> AddressRecord:
        try:
            return await self._hub.record_of(node, peer, _RECORDS_S)
        except PeerUnavailable:
            raise MissingError(f"no address record of {peer} came from the broker; is its node running?") from None

    async def _follow(self, peer: str, known: AddressRecord | None) -> None:
        while True:
            record = self._hub.book.get(peer, self._now())
            if record and record != known:
                await self._learn(record)
                known = record
            else:
                await self._hub.book.changed(peer)

    async def _learn(self, *records: AddressRecord) -> None:
        assert self._ports is not None
        ahead_s = self._now() - time.time()  # the others of this host go by its own clock
        await self._ports.learn({r.name: RecordView(view_of(r), r.expires_at - ahead_s) for r in records})

    async def _send(self, signal: OutgoingSignal) -> None:
        try:
            await self._hub.send(signal.node, signal.peer, signal.connection_id, signal.message, signal.deadline_s)
        except (PeerUnavailable, UntrustedPeer, ValueError) as error:
            _log.info("signal of %s lost: %s", signal.node, error)
            attempt = signal.message.attempt_id
            failure = IncomingSignal(signal.node, signal.peer, signal.connection_id, signal.plugin, attempt, None)
            self._deliver(failure)

    async def _handle(self, received: Received) -> None:
        message = received.message
        if not isinstance(message, AttemptMessage):
            return
        plugin = message.plugin if isinstance(message, Abandon) else self._owners[message.kind]
        ids = received.connection_id, plugin, message.attempt_id
        self._deliver(IncomingSignal(received.node, received.sender, *ids, message))

    def _deliver(self, signal: IncomingSignal) -> None:
        if signal.plugin in self._outboxes:
            self._outboxes[signal.plugin].put(signal)


def broker_url(broker: Broker) -> str:
    """The broker's URL with its password, for connecting; keep it out of logs."""
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    login = quote(broker.username, safe="") if broker.username else ""
    if isinstance(broker.password, SecretStr):
        login += ":" + quote(broker.password.get_secret_value(), safe="")
    return f"{'mqtts' if broker.tls else 'mqtt'}://{login}{'@' if login else ''}{host}:{broker.port}"


def view_of(record: AddressRecord) -> PeerView:
    """What the planner needs of a record."""
    return PeerView(
        name=record.name,
        machine=record.machine,
        interfaces=tuple(Interface("", i.ip, i.prefix_len) for i in record.interfaces),
        listeners=tuple(Endpoint(e.ip, e.port) for e in record.listeners if not e.external),
        external=dict(record.external),
        nat={af: nat.value for af, nat in record.nat.items()},
        relay=record.relay,
        standing=record.standing,
    ).with_mapped(Endpoint(e.ip, e.port) for e in record.listeners if e.external)
