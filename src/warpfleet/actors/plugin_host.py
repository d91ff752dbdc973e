"""The role that runs one plugin's attempts for every node of a host."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warpfleet.actors.admission import Admission
from warpfleet.actors.attempt_run import AttemptRun
from warpfleet.actors.budgets import Budgets
from warpfleet.actors.open_node import LearnRecord, OpenNode, OwnRecord, kernel_network
from warpfleet.actors.outbox import Outbox
from warpfleet.actors.surroundings import MACHINE, Surroundings
from warpfleet.actors.values import (
    CancelAttempt,
    Command,
    IncomingSignal,
    NameWinner,
    NodeSpec,
    OutgoingSignal,
    Report,
    Stage,
    StandingPorts,
    StartAttempt,
    Use,
)
from warpfleet.actors.won_pipes import HeldPipe, WonPipes
from warpfleet.core.combo import AttemptOutcome, Reason, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.net import descriptors
from warpfleet.net.handshake import Frame, FrameType, Wishes
from warpfleet.net.interfaces import NodeNetwork
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.tls import prepare
from warpfleet.plugins.attempt_context import AttemptSpec
from warpfleet.plugins.attempt_messages import Abandon
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.loader import registrations
from warpfleet.plugins.registry import REGISTRY, Registration
from warpfleet.plugins.room import MAX_SOCKETS, Room

_SETTLE_S = 3.0  # a router that has answered maps within tens of milliseconds, a slow one over HTTP within seconds

_log = logging.getLogger(__name__)


Handed = InboundStream | ProvedPath


@dataclass(frozen=True, slots=True)
class HostPorts:
    """Whom a plugin host talks to."""

    report: Callable[[list[Report]], Awaitable[None]]
    post: Callable[[list[OutgoingSignal]], Awaitable[None]]
    hand_over: Callable[[str, str, Handed], None]
    """Pass an inbound stream, or a path for a pipe, to the host of another plugin: plugin, node, what."""
    own_record: OwnRecord
    learn_record: LearnRecord
    remap: Callable[[list[tuple[str, tuple[Endpoint, ...]]]], Awaitable[None]]
    """Say where port mappings let strangers in to nodes, and that they no longer do."""
    stand: Callable[[list[StandingPorts]], Awaitable[None]]
    """Say at which UDP ports nodes always hear."""
    landings: Path | None = None
    """The folder where programs that are attached to nodes take pipes; None where no program is, or it is this one."""


class PluginHost:
    """Runs the attempts of one plugin. `on_pipe` gets the pipes that are held rather than measured, of either side.
    `network_of` makes a node's network.
    """

    registration: Registration

    def __init__(
        self,
        *,
        on_pipe: HeldPipe | None = None,
        network_of: Callable[[NodeSpec], NodeNetwork] = kernel_network,
        surroundings: Surroundings = MACHINE,
    ) -> None:
        registrations()  # imports every plugin: a host that stands by has that behind it
        self._on_held_pipe = on_pipe
        self._network_of = network_of
        self._surroundings = surroundings
        self._room = Room(min(MAX_SOCKETS, descriptors.limit() // 2))  # the other half is for everything else
        self._nodes: dict[str, OpenNode] = {}
        self._runs: dict[tuple[str, str], AttemptRun] = {}  # by node and attempt id: both sides may be served here
        self._roster: dict[bytes, PublicIdentity] = {}
        self._peers: dict[str, PublicIdentity] = {}
        self._ports: HostPorts | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()

    def bind(self, plugin: str, ports: HostPorts) -> None:
        """Learn which plugin to run, and whom to talk to. Before anything else."""
        self.registration = REGISTRY.get(plugin)
        self._ports = ports
        self._pipes = WonPipes(self._on_held_pipe, ports.landings)
        self._admission = Admission(self.registration.strategy, self._runs.values())
        self._budgets = Budgets(self.registration.strategy.allowance)
        self._reports: Outbox[Report, None] = Outbox(ports.report)
        self._signals: Outbox[OutgoingSignal, None] = Outbox(ports.post)
        self._mappings: Outbox[tuple[str, tuple[Endpoint, ...]], None] = Outbox(ports.remap)
        self._standing: Outbox[StandingPorts, None] = Outbox(ports.stand)

    async def open_nodes(
        self, specs: Sequence[NodeSpec], roster: Sequence[PublicIdentity]
    ) -> dict[str, list[Endpoint] | None]:
        """Set the plugin up for these nodes: each one's listeners, or None where the plugin opted out of it.

        MissingError where a node cannot be set up.
        """
        assert self._ports is not None
        self.trust(roster)
        opened: dict[str, list[Endpoint] | None] = {}
        for spec in specs:
            node = OpenNode(
                spec,
                self._roster,
                self._on_stream,
                self._ports.own_record,
                self._ports.learn_record,
                on_mapped=self._tell_mappings,
                on_standing=self._tell_standing,
                network=self._network_of(spec),
                now_s=self._surroundings.now_s,
            )
            self._nodes[spec.name] = node
            strategy = self.registration.strategy
            if strategy.carries_pipe and strategy.transport is Transport.TCP:
                prepare(spec.identity)
            node.factory = await strategy.setup(node)
            opened[spec.name] = list(node.listeners) if node.factory else None
            if node.listeners:  # a host that took the place of another has none of its mappings
                self._tell_mappings(node)
            if strategy.transport is Transport.UDP:  # nor of its sockets
                self._tell_standing(node)
        return opened

    async def settle(self) -> None:
        """Return once the address records say what they are going to say soon of what `open_nodes` began: of port
        mappings, where a gateway answers. Takes no longer than a few seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await asyncio.gather(*(node.settled() for node in self._nodes.values()))
        await asyncio.gather(self._mappings.drain(), self._standing.drain())

    def tell_ports(self) -> None:
        """Say again what is mapped, and where nodes always hear: whoever is told is a new one."""
        for node in self._nodes.values():
            self._tell_mappings(node)
            if node.standing:
                self._tell_standing(node)

    def trust(self, identities: Iterable[PublicIdentity]) -> None:
        """Let these peers open attempts; a name that comes with another key has that key from now on."""
        for identity in identities:
            former = self._peers.get(identity.name)
            if former:
                self._roster.pop(former.key, None)
            self._peers[identity.name] = self._roster[identity.key] = identity

    async def close_nodes(self, names: Sequence[str]) -> None:
        """End what runs for these nodes, then close their listeners and relays."""
        closing = [self._nodes.pop(name) for name in names if name in self._nodes]
        ending = [run for run in self._runs.values() if run.node in closing]
        for run in ending:
            run.cancel(Reason.STOPPED)
        await asyncio.gather(*(run.ended() for run in ending))
        await asyncio.gather(*(self._pipes.close(name) for name in names))
        await asyncio.gather(*(node.close() for node in closing))

    async def take_views(self, views: Mapping[str, PeerView], clock_offset_s: float = 0.0) -> None:
        """Learn what the nodes' own address records say, and how far this machine's clock is behind true time."""
        for name, view in views.items():
            if name in self._nodes:
                self._nodes[name].take_view(view, clock_offset_s)

    async def command(self, commands: Sequence[Command]) -> None:
        """Carry out the coordinator's commands, in order."""
        for command in commands:
            run = self._runs.get((command.node, command.attempt_id))
            if isinstance(command, StartAttempt):
                self._start(command)
            elif run and isinstance(command, NameWinner):
                run.name_winner(command.moves)
            elif run and isinstance(command, CancelAttempt):
                run.cancel(command.reason)

    async def orphan(self) -> None:
        """Cancel what a coordinator started that has died: nobody waits for it."""
        for run in self._runs.values():
            if run.context.side is Side.INITIATOR:
                run.cancel(Reason.ACTOR_DIED)

    async def deliver(self, signals: Sequence[IncomingSignal]) -> None:
        """Take messages from peers, each already proved to be from its sender."""
        for signal in signals:
            run = self._runs.get((signal.node, signal.attempt_id))
            if run is None:
                self._open_by_message(signal)
            elif run.context.peer.name != signal.sender:
                _log.warning("%s sent a message for an attempt of another peer: dropped", signal.sender)
            elif signal.message is None:
                run.context.inbox.put_failure(Reason.PEER_UNAVAILABLE)
            elif isinstance(signal.message, Abandon):
                run.cancel(Reason.PEER_CLOSED)
            else:
                run.context.inbox.put_message(signal.message)

    def adopt(self, node: str, handed: Handed) -> None:
        """Take an inbound stream whose first frame names this plugin, or a path for a pipe that it has won. Signatures
        are verified already."""
        if isinstance(handed, ProvedPath):
            self._pipes.move(node, handed)
        else:
            self._adopt_stream(node, handed)

    def _adopt_stream(self, node: str, inbound: InboundStream) -> None:
        frame = Frame.parse(inbound.first_frame)
        run = self._runs.get((node, frame.attempt_id)) or self._open_by_frame(node, frame, inbound.stream.local.af)
        if run is None or run.context.peer.key != frame.sender:
            inbound.stream.close()
        else:
            run.context.inbox.put_stream(inbound)

    async def serve(self) -> None:
        """Return when the host is closed; whoever awaits this learns at once when the process dies."""
        await self._closed.wait()

    async def close(self) -> None:
        """Close every node; what runs is cancelled."""
        await self.close_nodes(list(self._nodes))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ports:
            outboxes = self._reports, self._signals, self._mappings, self._standing
            await asyncio.gather(*(outbox.drain() for outbox in outboxes))
        self._closed.set()

    def _tell_mappings(self, node: OpenNode) -> None:
        self._mappings.put((node.name, node.mapped))

    def _tell_standing(self, node: OpenNode) -> None:
        self._standing.put(StandingPorts(node.name, self.registration.name, dict(node.standing)))

    def _start(self, order: StartAttempt) -> None:
        node = self._nodes.get(order.node)
        peer = self._peers.get(order.peer)
        if node is None or node.factory is None or peer is None:
            _log.error("no node %s here, or no peer %s: attempt not started", order.node, order.peer)
            self._reports.put(_not_started(order, Reason.UNTRUSTED if peer is None else Reason.OPTED_OUT))
            return
        spec = AttemptSpec(
            attempt_id=order.attempt_id,
            connection_id=order.connection_id,
            started_at_us=node.true_us(order.started_at_us),
            side=Side.INITIATOR,
            combo=order.combo,
            timeout_s=order.timeout_s,
            theirs=order.theirs,
            rtt_ms=order.rtt_ms,
            wishes=node.wishes | (Wishes.NONE if order.use is Use.HOLD else Wishes.MEASURED),
            for_move=order.for_move,
        )
        self._run(node, peer, spec, order.use)

    def _open_by_message(self, signal: IncomingSignal) -> None:
        node = self._nodes.get(signal.node)
        peer = self._peers.get(signal.sender)
        if node and peer and (spec := self._admission.by_message(node, signal)):
            self._respond(node, peer, spec)

    def _open_by_frame(self, node_name: str, frame: Frame, af: AddressFamily) -> AttemptRun | None:
        node = self._nodes.get(node_name)
        if node and (spec := self._admission.by_frame(node, frame, af)):
            return self._respond(node, self._roster[frame.sender], spec)
        return None

    def _respond(self, node: OpenNode, peer: PublicIdentity, spec: AttemptSpec) -> AttemptRun | None:
        return self._run(node, peer, spec) if self._admission.admits(node, peer, spec) else None

    def _run(self, node: OpenNode, peer: PublicIdentity, spec: AttemptSpec, use: Use | None = None) -> AttemptRun:
        assert node.factory is not None
        strategy = self.registration.strategy
        run = AttemptRun(
            spec,
            node,
            peer,
            strategy.reaches or (spec.combo.route,),
            self._budgets,
            report=self._reports.put,
            post=self._signals.put,
            on_pipe=self._pipes.use,
            on_path=lambda run, path: self._pass_on(path.plugin, run.node.name, path),
            room=self._room,
            lander=self._pipes.lander(node, spec),
            surroundings=self._surroundings,
        )
        key = node.name, spec.attempt_id
        self._runs[key] = run
        self._pipes.expect(run, use)
        task = run.start(node.factory)
        self._tasks.add(task)

        def forget(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._runs.pop(key, None)
            self._admission.ended(node.name, spec)
            self._pipes.forget(run)

        task.add_done_callback(forget)
        return run

    def _on_stream(self, node: OpenNode, inbound: InboundStream) -> None:
        """Pass a stream on to the plugin whose attempt it is for. MOVE names another one, that of the pipe: whoever
        begins with it has dialled us, which is for the plugin whose door this is."""
        frame = Frame.parse(inbound.first_frame)
        plugin = self.registration.name if frame.type is FrameType.MOVE else frame.plugin
        self._pass_on(plugin, node.name, inbound)

    def _pass_on(self, plugin: str, node: str, handed: Handed) -> None:
        assert self._ports is not None
        if plugin == self.registration.name:
            self.adopt(node, handed)
        elif any(plugin == registration.name for registration in REGISTRY):
            self._ports.hand_over(plugin, node, handed)
        else:
            handed.discard()


def _not_started(order: StartAttempt, reason: Reason) -> Report:
    now_s = asyncio.get_running_loop().time()
    return Report(
        stage=Stage.ENDED,
        node=order.node,
        peer=order.peer,
        attempt_id=order.attempt_id,
        connection_id=order.connection_id,
        side=Side.INITIATOR,
        combo=order.combo,
        begun_s=now_s,
        at_s=now_s,
        started_at_us=order.started_at_us,
        outcome=AttemptOutcome.FAILED,
        reason=reason,
    )
