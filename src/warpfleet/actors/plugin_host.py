"""The role that runs one plugin's attempts for every node of a host."""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warpfleet.actors.attempt_run import AttemptRun
from warpfleet.actors.echo import Measured, echo, measure
from warpfleet.actors.lander import Lander, landing_path
from warpfleet.actors.movable import MovablePipe, Whose, whose
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
    StartAttempt,
    Use,
)
from warpfleet.actors.work import Work
from warpfleet.core.combo import AttemptOutcome, Combo, Reason, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.core.targets import Budget
from warpfleet.net import descriptors
from warpfleet.net.handshake import Frame, FrameType, Wishes
from warpfleet.net.interfaces import NodeNetwork, Pipe
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import QuicPipe
from warpfleet.plugins.attempt_context import AttemptSpec
from warpfleet.plugins.attempt_messages import Abandon
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.loader import registrations
from warpfleet.plugins.registry import REGISTRY, Registration
from warpfleet.plugins.room import MAX_SOCKETS, Room

# A stream that a peer opened has been connected already: what follows is a proof of a few round trips.
_STREAM_TIMEOUT_S = 15.0
# So many attempts may peers have open with one node at a time: ten connections with every technique at once.
_RESPONDER_ATTEMPTS_MAX = 128
_ATTEMPTS_OF_A_PEER_MAX = 48  # so that one peer leaves room for others
_SETTLE_S = 3.0  # a router that has answered maps within tens of milliseconds, a slow one over HTTP within seconds
_BUDGETS_MAX = 4096  # pairs of which what they may send is remembered; those of long ago have filled up again
_ANSWERED_MAX = 1024  # a signal is late by seconds: that is hundreds of attempts a second
_CONNECTION_ID = re.compile(r"[0-9a-f]{32}")

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
    stand: Callable[[list[tuple[str, dict[AddressFamily, int]]]], Awaitable[None]]
    """Say at which UDP ports nodes always hear."""
    landings: Path | None = None
    """The folder where programs that are attached to nodes take pipes; None where no program is, or it is this one."""


HeldPipe = Callable[[str, str, Side, Pipe], None]
"""Takes a pipe that is not measured: node, connection id, side, pipe."""


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
        self._budgets: dict[tuple[str, bytes], Budget] = {}  # by node and peer, the one used last at the end
        self._room = Room(min(MAX_SOCKETS, descriptors.limit() // 2))  # the other half is for everything else
        self._nodes: dict[str, OpenNode] = {}
        self._runs: dict[tuple[str, str], AttemptRun] = {}  # by node and attempt id: both sides may be served here
        self._uses: dict[tuple[str, str], Use] = {}
        self._answered: dict[tuple[str, str], None] = {}  # attempts that streams have opened and that are over
        self._movable: dict[Whose, MovablePipe] = {}
        self._early_paths: dict[Whose, ProvedPath] = {}  # for pipes whose tunnel is still being made
        self._roster: dict[bytes, PublicIdentity] = {}
        self._peers: dict[str, PublicIdentity] = {}
        self._ports: HostPorts | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._served: defaultdict[str, Work] = defaultdict(Work)  # by node: pipes that end in a program attached to it
        self._closed = asyncio.Event()

    def bind(self, plugin: str, ports: HostPorts) -> None:
        """Learn which plugin to run, and whom to talk to. Before anything else."""
        self.registration = REGISTRY.get(plugin)
        self._ports = ports
        self._reports: Outbox[Report, None] = Outbox(ports.report)
        self._signals: Outbox[OutgoingSignal, None] = Outbox(ports.post)
        self._mappings: Outbox[tuple[str, tuple[Endpoint, ...]], None] = Outbox(ports.remap)
        self._standing: Outbox[tuple[str, dict[AddressFamily, int]], None] = Outbox(ports.stand)

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
            node.factory = await self.registration.strategy.setup(node)
            opened[spec.name] = list(node.listeners) if node.factory else None
            if node.listeners:  # a host that took the place of another has none of its mappings
                self._tell_mappings(node)
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
        await asyncio.gather(*(self._served.pop(name).cancel() for name in names if name in self._served))
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
            self._adopt_path(node, handed)
        else:
            self._adopt_stream(node, handed)

    def _adopt_path(self, node: str, path: ProvedPath) -> None:
        pipe = node, path.peer, path.connection_id, path.side
        if movable := self._movable.get(pipe):
            movable.move(path)
        elif pipe not in self._early_paths and self._may_come(pipe):
            self._early_paths[pipe] = path
        else:
            path.discard()

    def _may_come(self, pipe: Whose) -> bool:
        return any(whose(run) == pipe for run in self._runs.values())

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
        self._standing.put((node.name, dict(node.standing)))

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
            wishes=_wishes(node) | (Wishes.NONE if order.use is Use.HOLD else Wishes.MEASURED),
            for_move=order.for_move,
        )
        self._uses[order.node, order.attempt_id] = order.use
        self._run(node, peer, spec)

    def _open_by_message(self, signal: IncomingSignal) -> None:
        node = self._nodes.get(signal.node)
        peer = self._peers.get(signal.sender)
        message = signal.message
        if node is None or peer is None or message is None or not message.opens:
            return
        if (signal.node, signal.attempt_id) in self._answered:
            return  # a stream was faster
        spec = AttemptSpec(
            attempt_id=signal.attempt_id,
            connection_id=signal.connection_id,
            started_at_us=message.started_at_us,
            side=Side.RESPONDER,
            combo=Combo(self.registration.name, message.af, message.route),
            timeout_s=message.timeout_s,
            opening=message,
            rtt_ms=message.rtt_ms,
            wishes=_wishes(node),
        )
        self._respond(node, peer, spec)

    def _open_by_frame(self, node_name: str, frame: Frame, af: AddressFamily) -> AttemptRun | None:
        node = self._nodes.get(node_name)
        if node is None or frame.type is not FrameType.HELLO or not self.registration.strategy.accepts_streams:
            return None
        spec = AttemptSpec(
            attempt_id=frame.attempt_id,
            connection_id=frame.connection_id,
            started_at_us=frame.started_at_us,
            side=Side.RESPONDER,
            combo=Combo(self.registration.name, af, frame.route),
            timeout_s=_STREAM_TIMEOUT_S,
            wishes=_wishes(node),
        )
        return self._respond(node, self._roster[frame.sender], spec)

    def _respond(self, node: OpenNode, peer: PublicIdentity, spec: AttemptSpec) -> AttemptRun | None:
        open_here = [r for r in self._runs.values() if r.node is node and r.context.side is Side.RESPONDER]
        of_peer = sum(run.context.peer == peer for run in open_here)
        strategy = self.registration.strategy
        known = _CONNECTION_ID.fullmatch(spec.connection_id) and spec.combo.route in strategy.routes
        full = len(open_here) >= _RESPONDER_ATTEMPTS_MAX or of_peer >= _ATTEMPTS_OF_A_PEER_MAX
        if node.factory is None or not known or full:
            _log.info("%s opens an attempt with %s that is refused", peer.name, node.name)
            return None
        return self._run(node, peer, spec)

    def _run(self, node: OpenNode, peer: PublicIdentity, spec: AttemptSpec) -> AttemptRun:
        assert node.factory is not None
        strategy = self.registration.strategy
        run = AttemptRun(
            spec,
            node,
            peer,
            strategy.reaches or (spec.combo.route,),
            self._budget(node.name, peer),
            report=self._reports.put,
            post=self._signals.put,
            on_pipe=self._use_pipe,
            on_path=lambda run, path: self._pass_on(path.plugin, run.node.name, path),
            room=self._room,
            lander=self._lander(node, spec),
            surroundings=self._surroundings,
        )
        key = node.name, spec.attempt_id
        self._runs[key] = run
        task = run.start(node.factory)
        self._tasks.add(task)

        def forget(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._runs.pop(key, None)
            self._uses.pop(key, None)
            if spec.side is Side.RESPONDER and spec.opening is None:
                self._answered[key] = None
                while len(self._answered) > _ANSWERED_MAX:
                    del self._answered[next(iter(self._answered))]
            if not self._may_come(whose(run)) and (early := self._early_paths.pop(whose(run), None)):
                early.discard()

        task.add_done_callback(forget)
        return run

    def _lander(self, node: OpenNode, spec: AttemptSpec) -> Lander | None:
        """Who reaches the program that the pipe of an attempt may be for."""
        if self._ports is None or self._ports.landings is None:
            return None
        lander = Lander(landing_path(self._ports.landings, node.identity.public))
        measured = spec.side is Side.INITIATOR and Wishes.MEASURED in spec.wishes
        return lander if lander.attached and not measured else None

    def _budget(self, node: str, peer: PublicIdentity) -> Budget:
        """What a node's attempts with a peer may still send, so that no peer has us flood others by many attempts."""
        key = node, peer.key
        budget = self._budgets.pop(key, None) or Budget(self.registration.strategy.allowance)
        self._budgets[key] = budget
        while len(self._budgets) > _BUDGETS_MAX:
            del self._budgets[next(iter(self._budgets))]
        return budget

    async def _use_pipe(self, run: AttemptRun, pipe: Pipe) -> None:
        movable = self._made_movable(run, pipe) if isinstance(pipe, QuicPipe) and pipe.path.relayed else None
        use = self._uses.get((run.node.name, run.context.attempt_id))
        held = Wishes.MEASURED not in run.context.wishes | run.context.peer_wishes
        if held and self._on_held_pipe:
            self._on_held_pipe(run.node.name, run.context.connection_id, run.context.side, pipe)
        elif held and (lander := self._lander(run.node, run.context)):
            self._served[run.node.name].start(_serve(lander, run, pipe))
        elif run.context.side is Side.RESPONDER:
            await echo(pipe)
        elif held:  # the program that it was for has gone
            await pipe.abort()
        elif movable:
            _tell(run, await measure(pipe))
            if use is Use.KEEP:
                await movable.moved.wait()
                _tell(run, await measure(pipe))
                await asyncio.shield(movable.closed)
            await pipe.close()
        else:
            measured = await measure(pipe)
            await pipe.close()  # the connection that begins next may want the same standing socket
            _tell(run, measured)

    def _made_movable(self, run: AttemptRun, pipe: QuicPipe) -> MovablePipe:
        movable = self._movable[whose(run)] = MovablePipe(run, pipe)
        movable.closed.add_done_callback(lambda _: self._movable.pop(whose(run)))
        if early := self._early_paths.pop(whose(run), None):
            movable.move(early)
        return movable

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


def _wishes(node: OpenNode) -> Wishes:
    return Wishes.PLAIN if node.spec.plain else Wishes.NONE


async def _serve(lander: Lander, run: AttemptRun, pipe: Pipe) -> None:
    """Let the program that is attached to the node have it; without one, peers find their echo."""
    if await lander.serve(run.context, pipe):
        return
    if run.context.side is Side.RESPONDER:
        await echo(pipe)
    else:
        await pipe.abort()


def _tell(run: AttemptRun, measured: Measured | None) -> None:
    first_byte_at_s = measured.first_byte_at_s if measured else None
    rtt_ms = measured.rtt_ms if measured else None
    run.tell(Stage.MEASURED, first_byte_at_s=first_byte_at_s, rtt_ms=rtt_ms)


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
