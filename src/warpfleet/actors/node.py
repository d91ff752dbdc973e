"""One node as a library: the roles of a host inline, in the program's own event loop, without Ray."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self
from uuid import uuid4
from weakref import WeakSet

from pydantic import ValidationError

from warpfleet.actors.backlog import Backlog
from warpfleet.actors.coordinator import Coordinator, RecordView
from warpfleet.actors.observatory_host import ObservatoryHost
from warpfleet.actors.plugin_host import Handed, HostPorts, PluginHost
from warpfleet.actors.signal_host import SignalHost, SignalPorts
from warpfleet.actors.surroundings import MACHINE, Surroundings
from warpfleet.actors.telemetry_host import TelemetryHost
from warpfleet.actors.values import ConnectionRequest, NodeSpec, Use
from warpfleet.configs.fleet import Broker, FleetNode, NtpServer, Services, TurnServer
from warpfleet.configs.loader import key_text
from warpfleet.core.combo import Policy, Reason, RouteType, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import InputError, WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView
from warpfleet.core.plan import Pin
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.loader import registrations
from warpfleet.plugins.registry import REGISTRY
from warpfleet.signal.clock import best_offset_s
from warpfleet.telemetry.reasons import sentence
from warpfleet.telemetry.records import ConnectionRow
from warpfleet.telemetry.sweep import Sweep

# A full test of the NATs takes four round trips to a STUN server: those beyond 100 ms away are not waited for.
_PATIENCE_S = 0.5
_ROWS_WAIT_S = 60.0  # how long one question for finished connections waits; then it is asked again


class ConnectFailed(WarpfleetError):
    """No pipe came about. `reason` is of the closed vocabulary, `row` is what telemetry records of the connection."""

    def __init__(self, reason: Reason, row: ConnectionRow) -> None:
        super().__init__(f"{row.initiator} -> {row.responder}: {sentence(reason)} ({row.error})")
        self.reason = reason
        self.row = row


class Node:
    """One node of its own: it connects to the peers that it trusts, and accepts pipes from them.

    Open it with `async with Node.open(...) as node`. A pipe lives no longer than its node; one that the program drops
    unclosed is closed with its last reference, as any socket of Python's.
    """

    def __init__(self, spec: NodeSpec, surroundings: Surroundings = MACHINE) -> None:
        self._spec = spec
        self._run_id = uuid4().hex  # what telemetry knows this run by, as it knows a sweep
        self._peers: dict[str, PublicIdentity] = {}
        self._telemetry = TelemetryHost()
        self._observatory = ObservatoryHost(None)
        self._coordinator = Coordinator(self._telemetry, self._observatory, surroundings=surroundings)
        self._signal = SignalHost()
        self._hosts = {r.name: PluginHost(on_pipe=self._take_pipe, surroundings=surroundings) for r in registrations()}
        self._connecting: dict[str, asyncio.Future[Pipe | ConnectionRow]] = {}
        self._backlog = Backlog()
        self._pipes: WeakSet[Pipe] = WeakSet()
        self._collector: asyncio.Task[None] | None = None
        self._last_words: set[asyncio.Task[None]] = set()  # pipes that nobody wants, being closed
        self._closing: asyncio.Task[None] | None = None
        self.view = PeerView(name=spec.name, machine="")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        identity: Identity,
        *,
        mqtt: Sequence[str | Broker],
        peers: Iterable[PublicIdentity] = (),
        stun: Sequence[str | Endpoint] = (),
        turn: Sequence[Mapping[str, str] | TurnServer] = (),
        ntp: Sequence[str | NtpServer] = (),
        vantage: Vantage | None = None,
        listen: Sequence[int] = (0,),
        plain: bool = False,
        telemetry: Path | None = None,
        surroundings: Surroundings = MACHINE,
    ) -> AsyncIterator[Self]:
        """The node, open until the block ends. Services are written as in a fleet file, `telemetry` is a directory, and
        `surroundings` are this machine's clock and chance unless given. A node that is `plain` does without TLS over
        TCP, with peers that are, too: whoever is on the path can then read the bytes, and change them.

        Peers may come up later than we do. InputError for an argument that is wrong, MissingError where a port is taken
        or no broker answers in time.
        """
        vantage = vantage or Vantage()
        services = {"mqtt": mqtt, "stun": stun, "turn": turn, "ntp": ntp}
        spec = replace(_spec(identity, vantage, listen, services), plain=plain)
        vantage.check()
        node = cls(spec, surroundings)
        try:
            await node._open(telemetry)
            await node.trust(*peers)
            yield node
        finally:
            await node.close()

    @property
    def name(self) -> str:
        """The node's name."""
        return self._spec.name

    @property
    def public(self) -> PublicIdentity:
        """What peers need to trust it."""
        return self._spec.identity.public

    async def trust(self, *peers: PublicIdentity) -> None:
        """Let these peers connect to us, and us to them. A name that comes with another key has that key from now on.
        InputError for our own name."""
        self._check_open()
        if any(peer.name == self.name or peer.key == self.public.key for peer in peers):
            raise InputError(f"node {self.name} cannot be its own peer; leave it out of the peers")
        self._peers.update({peer.name: peer for peer in peers})
        for host in self._hosts.values():
            host.trust(peers)
        await self._signal.trust(self.name, peers)

    async def connect(
        self,
        peer: str,
        *,
        af: AddressFamily | None = None,
        route_type: RouteType | None = None,
        plugin_name: str | None = None,
        policy: Policy = Policy.STAGGERED,
        timeout_s: float | None = None,
    ) -> Pipe:
        """A pipe to a peer; what is given pins the combos that are tried.

        The policy has a deadline of its own, which `timeout_s` shortens. ConnectFailed where no pipe came about,
        InputError for an unknown peer, plugin or address family, ConnectionLost where the node is closed.
        """
        self._check_open()
        request = ConnectionRequest(
            sweep_id=self._run_id,
            connection_id=uuid4().hex,
            initiator=self.name,
            responder=self._known(peer),
            repeat=0,
            policy=policy,
            pin=_pin(plugin_name, af, route_type),
            use=Use.HOLD,
        )
        ended = self._connecting[request.connection_id] = asyncio.get_running_loop().create_future()
        try:
            return await self._connected(request, ended, timeout_s)
        except asyncio.CancelledError:
            await self._coordinator.cancel(request.connection_id, Reason.STOPPED)
            if ended.done() and not isinstance(ended.result(), ConnectionRow):
                self._drop(ended.result())
            raise
        finally:
            del self._connecting[request.connection_id]

    def accept(self) -> AsyncIterator[Pipe]:
        """The pipes that peers open to us, as they come: `async for pipe in node.accept()`, or one of them by
        `await anext(node.accept())`; `pipe.peer` tells who. It ends when the node is closed."""
        return self._backlog

    async def close(self) -> None:
        """Close every pipe, listener and signal; connections under way fail with `Reason.STOPPED`. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _open(self, telemetry: Path | None) -> None:
        if telemetry:
            await self._telemetry.open_sweep(telemetry, _run(self._run_id, self._spec), resume=False)
        self._bind()
        await self._coordinator.bind({plugin: host.command for plugin, host in self._hosts.items()})
        self._collector = asyncio.create_task(self._collect())
        listeners: list[Endpoint] = []
        for plugin, host in self._hosts.items():
            opened = (await host.open_nodes([self._spec], []))[self.name]
            if opened is None:
                await self._coordinator.opted_out([(plugin, self.name)])
            listeners += opened or []
        [report] = await self._signal.open_nodes([self._spec], {self.name: listeners}, [], patience_s=_PATIENCE_S)
        await self._learn({self.name: RecordView(report.view, math.inf)})
        for host in self._hosts.values():
            await host.take_views({self.name: self.view}, best_offset_s([report.clock]))

    def _bind(self) -> None:
        ports = HostPorts(
            report=self._coordinator.report,
            post=self._signal.post,
            hand_over=self._hand_over,
            own_record=self._signal.own_record,
            learn_record=self._signal.learn_record,
            remap=self._signal.remap,
            stand=self._signal.stand,
        )
        for plugin, host in self._hosts.items():
            host.bind(plugin, ports)
        deliver = {plugin: host.deliver for plugin, host in self._hosts.items()}
        take_views = {plugin: host.take_views for plugin, host in self._hosts.items()}
        self._signal.bind(SignalPorts(deliver=deliver, learn=self._learn, take_views=take_views))

    async def _learn(self, records: dict[str, RecordView]) -> None:
        if self.name in records:
            self.view = records[self.name].view
        await self._coordinator.learn(records)

    async def _close(self) -> None:
        self._backlog.close()
        await self._coordinator.stop(self._run_id)
        await asyncio.gather(*(pipe.close() for pipe in list(self._pipes)))
        await asyncio.gather(*(host.close() for host in self._hosts.values()))
        await asyncio.gather(*self._last_words)
        await self._coordinator.close()
        if self._collector:
            self._collector.cancel()
            await asyncio.gather(self._collector, return_exceptions=True)
        self._settle(await self._coordinator.finished(self._run_id, 0))
        await self._signal.close()
        await self._observatory.close()
        await self._telemetry.close()

    async def _connected(
        self, request: ConnectionRequest, ended: asyncio.Future[Pipe | ConnectionRow], timeout_s: float | None
    ) -> Pipe:
        await self._coordinator.connect([request])
        done, _ = await asyncio.wait([ended], timeout=timeout_s)
        if not done:
            await self._coordinator.cancel(request.connection_id, Reason.DEADLINE)
            await asyncio.wait([ended])
        outcome = ended.result()
        if isinstance(outcome, ConnectionRow):
            # Without a reason it was won just as the node closed.
            raise ConnectFailed(outcome.reason or Reason.STOPPED, outcome)
        return outcome

    async def _collect(self) -> None:
        while True:
            self._settle(await self._coordinator.finished(self._run_id, _ROWS_WAIT_S))

    def _settle(self, rows: Iterable[ConnectionRow]) -> None:
        for row in rows:
            ended = self._connecting.get(row.connection_id)
            if ended and not ended.done():
                ended.set_result(row)

    def _take_pipe(self, _node: str, connection_id: str, side: Side, pipe: Pipe) -> None:
        ended = self._connecting.get(connection_id) if side is Side.INITIATOR else None
        if self._closing:
            self._drop(pipe)
        elif ended and not ended.done():
            self._pipes.add(pipe)
            ended.set_result(pipe)
        elif side is Side.RESPONDER and self._backlog.put(pipe):
            self._pipes.add(pipe)
        else:
            self._drop(pipe)

    def _drop(self, pipe: Pipe) -> None:
        task = asyncio.create_task(pipe.close())
        self._last_words.add(task)
        task.add_done_callback(self._last_words.discard)

    def _hand_over(self, plugin: str, node: str, handed: Handed) -> None:
        if plugin in self._hosts:
            self._hosts[plugin].adopt(node, handed)
        else:
            handed.discard()

    def _known(self, peer: str) -> str:
        if peer in self._peers:
            return peer
        near = get_close_matches(peer, self._peers, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "give its public identity to `Node.open` or `Node.trust`"
        raise InputError(f"node {self.name} knows no peer {peer!r}; {remedy}")

    def _check_open(self) -> None:
        if self._closing:
            raise ConnectionLost(f"node {self.name} is closed")


def _spec(identity: Identity, vantage: Vantage, listen: Sequence[int], services: Mapping[str, Any]) -> NodeSpec:
    try:
        node = FleetNode.model_validate({"name": identity.name, "listen": listen})
        found = Services.model_validate(services)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        message = detail["msg"].removeprefix("Value error, ")
        raise InputError(f"node {identity.name}: {key_text(detail['loc'])}: {message}") from None
    if not found.mqtt:
        raise InputError(f"node {identity.name}: mqtt names no broker; give the URL of one, as mqtt://192.0.2.7:1883")
    return NodeSpec(
        identity=identity,
        vantage=vantage,
        listen=node.listen,
        brokers=found.mqtt,
        stun=found.stun,
        turn=found.turn,
        ntp=tuple(str(server) for server in found.ntp),
    )


def _pin(plugin: str | None, af: AddressFamily | None, route: RouteType | None) -> Pin:
    if plugin is not None and not REGISTRY.get(plugin).strategy.carries_pipe:
        raise InputError(f"plugin {plugin!r} carries no pipe; pin another")
    if af is not None and af not in ADDRESS_FAMILIES:
        raise InputError(f"af is 4 or 6, not {af!r}")
    return Pin(plugin, af, route)


def _run(run_id: str, spec: NodeSpec) -> Sweep:
    """What telemetry says of a run of this node, in the shape of a sweep. Services stay out: they have passwords."""
    return Sweep(
        sweep_id=run_id,
        fleet={"version": 1, "name": spec.name, "nodes": [{"name": spec.name, "listen": list(spec.listen)}]},
        policy=Policy.STAGGERED,
        seed=0,
        arguments={},
        started_at=datetime.now(UTC),
    )
