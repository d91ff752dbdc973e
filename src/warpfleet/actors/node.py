"""One node as a library: the roles of a host inline, in the program's own event loop, without Ray."""

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from warpfleet.actors.base_node import BaseNode
from warpfleet.actors.coordinator import Coordinator, RecordView
from warpfleet.actors.observatory_host import ObservatoryHost
from warpfleet.actors.plugin_host import Handed, HostPorts, PluginHost
from warpfleet.actors.signal_host import SignalHost, SignalPorts
from warpfleet.actors.surroundings import MACHINE, Surroundings
from warpfleet.actors.telemetry_host import TelemetryHost
from warpfleet.actors.values import ConnectionRequest, NodeSpec
from warpfleet.configs.fleet import Broker, FleetNode, NtpServer, Services, TurnServer
from warpfleet.configs.loader import key_text
from warpfleet.core.combo import Policy, Reason, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import InputError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.peer import PeerView
from warpfleet.net.interfaces import Pipe
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.loader import registrations
from warpfleet.signal.clock import best_offset_s
from warpfleet.telemetry.sweep import Sweep

# A full test of the NATs takes four round trips to a STUN server: those beyond 100 ms away are not waited for.
_PATIENCE_S = 0.5
_ROWS_WAIT_S = 60.0  # how long one question for finished connections waits; then it is asked again


class Node(BaseNode):
    """One node of its own. Open it with `async with Node.open(...) as node`."""

    _remedy = "give its public identity to `Node.open` or `Node.trust`"

    def __init__(self, spec: NodeSpec, surroundings: Surroundings = MACHINE) -> None:
        super().__init__(spec.identity.public)
        self._spec = spec
        self._peers: dict[str, PublicIdentity] = {}
        self._telemetry = TelemetryHost()
        self._observatory = ObservatoryHost(None)
        self._coordinator = Coordinator(self._telemetry, self._observatory, surroundings=surroundings)
        self._signal = SignalHost()
        self._hosts = {r.name: PluginHost(on_pipe=self._take_held, surroundings=surroundings) for r in registrations()}
        self._collector: asyncio.Task[None] | None = None
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
        self._close_backlog()
        await self._coordinator.stop(self._run_id)
        await self._close_pipes()
        await asyncio.gather(*(host.close() for host in self._hosts.values()))
        await self._last_said()
        await self._coordinator.close()
        if self._collector:
            self._collector.cancel()
            await asyncio.gather(self._collector, return_exceptions=True)
        self._settle(await self._coordinator.finished(self._run_id, 0))
        await self._signal.close()
        await self._observatory.close()
        await self._telemetry.close()

    async def _collect(self) -> None:
        while True:
            self._settle(await self._coordinator.finished(self._run_id, _ROWS_WAIT_S))

    async def _begin(self, request: ConnectionRequest) -> None:
        await self._coordinator.connect([request])

    async def _cancel(self, connection_id: str, reason: Reason) -> None:
        await self._coordinator.cancel(connection_id, reason)

    def _trusted(self) -> Collection[str]:
        return self._peers

    def _take_held(self, _node: str, connection_id: str, side: Side, pipe: Pipe) -> None:
        self._take_pipe(connection_id, side, pipe)

    def _hand_over(self, plugin: str, node: str, handed: Handed) -> None:
        if plugin in self._hosts:
            self._hosts[plugin].adopt(node, handed)
        else:
            handed.discard()


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
