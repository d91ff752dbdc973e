"""One node of a simulated laboratory: the roles of its host, inline, as `actors.node.Node` has them."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from warpfleet.actors.coordinator import Coordinator, RecordView, TelemetryPort
from warpfleet.actors.plugin_host import Handed, HostPorts, PluginHost
from warpfleet.actors.surroundings import Surroundings
from warpfleet.actors.values import ConnectionRequest, NodeSpec, StandingPorts
from warpfleet.actors.won_pipes import HeldPipe
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.nat import NatBehaviour
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView
from warpfleet.lab.sim.network import SimNetwork
from warpfleet.lab.sim.signalling import Mailbox, Signalling
from warpfleet.net.interfaces import NodeNetwork, Unreachable
from warpfleet.net.natprobe import probe
from warpfleet.plugins.loader import registrations
from warpfleet.telemetry.records import ConnectionRow

_ROW_S = 600.0  # longer than any policy lets a connection take


class SimNode:
    """A node with its coordinator and its plugin hosts. `on_pipe` gets the pipes that are held, `record_of` has what
    any node's address record says, and `publish` tells every node that one has changed."""

    def __init__(
        self,
        spec: NodeSpec,
        network: SimNetwork,
        surroundings: Surroundings,
        telemetry: TelemetryPort,
        *,
        machine: str,
        on_pipe: HeldPipe | None,
        record_of: Callable[[str], PeerView],
        publish: Callable[[str, PeerView], Awaitable[None]],
    ) -> None:
        self.spec = spec
        self.view = PeerView(name=spec.name, machine=machine)
        self._network = network
        self._record_of = record_of
        self._publish = publish
        self._mapped: tuple[Endpoint, ...] = ()
        self._coordinator = Coordinator(telemetry, surroundings=surroundings)
        self._hosts = {
            r.name: PluginHost(on_pipe=on_pipe, network_of=self._network_of, surroundings=surroundings)
            for r in registrations()
        }

    async def open(self, signalling: Signalling, delay_s: float, roster: Sequence[PublicIdentity]) -> None:
        """Set every plugin up, and find out what the node's address record has to say."""
        ports = HostPorts(
            report=self._coordinator.report,
            post=signalling.post,
            hand_over=self._hand_over,
            own_record=self._own_record,
            learn_record=self._learn_record,
            remap=self._remap,
            stand=self._stand,
        )
        listeners: list[Endpoint] = []
        for plugin, host in self._hosts.items():
            host.bind(plugin, ports)
            opened = (await host.open_nodes([self.spec], roster))[self.spec.name]
            if opened is None:
                await self._coordinator.opted_out([(plugin, self.spec.name)])
            listeners += opened or []
        await self._coordinator.bind({plugin: host.command for plugin, host in self._hosts.items()})
        signalling.open(
            self.spec.name, Mailbox(delay_s, {plugin: host.deliver for plugin, host in self._hosts.items()})
        )
        self.view = (await self._look(listeners)).with_mapped(self._mapped)
        await self._tell_hosts()
        await asyncio.gather(*(host.settle() for host in self._hosts.values()))

    async def learn(self, views: Mapping[str, PeerView]) -> None:
        """Take the address records of every node."""
        await self._coordinator.learn({name: RecordView(view, math.inf) for name, view in views.items()})

    async def connect(self, request: ConnectionRequest) -> ConnectionRow:
        """Connect to a peer; the connection's row."""
        await self._coordinator.connect([request])
        [row] = await self._coordinator.finished(request.sweep_id, _ROW_S)
        return row

    async def close(self) -> None:
        """Close every host."""
        await self._coordinator.close()
        for host in self._hosts.values():
            await host.close()

    async def _look(self, listeners: Sequence[Endpoint]) -> PeerView:
        external: dict[AddressFamily, str] = {}
        nat: dict[AddressFamily, NatBehaviour] = {}
        for af in ADDRESS_FAMILIES:
            try:
                found = await probe(self._network, self.spec.stun, af=af)
            except Unreachable:
                continue
            if found.external_ip:
                external[af], nat[af] = found.external_ip, found.behaviour
        return PeerView(
            name=self.spec.name,
            machine=self.view.machine,
            interfaces=tuple(self._network.interfaces()),
            listeners=tuple(listeners),
            external=external,
            nat=nat,
            relay=True,
        )

    async def _remap(self, mapped: Sequence[tuple[str, tuple[Endpoint, ...]]]) -> None:
        for _, endpoints in mapped:
            self._mapped = endpoints
        if self.view.interfaces:  # we have looked already
            await self._change(self.view.with_mapped(self._mapped))

    async def _stand(self, told: Sequence[StandingPorts]) -> None:
        for _, plugin, ports in told:
            if ports != self.view.standing.get(plugin, {}):
                await self._change(replace(self.view, standing=self.view.standing | {plugin: ports}))

    async def _change(self, view: PeerView) -> None:
        self.view = view
        await self._tell_hosts()
        await self._publish(self.spec.name, self.view)

    async def _tell_hosts(self) -> None:
        for host in self._hosts.values():
            await host.take_views({self.spec.name: self.view})

    def _network_of(self, _spec: NodeSpec) -> NodeNetwork:
        return self._network

    def _hand_over(self, plugin: str, node: str, handed: Handed) -> None:
        self._hosts[plugin].adopt(node, handed)

    async def _own_record(self, node: str) -> bytes:
        return node.encode()  # nobody in memory forges a record: its node's name stands for it

    async def _learn_record(self, peer: str, record: bytes) -> bool:
        if record != peer.encode():
            return False
        await self.learn({peer: self._record_of(peer)})
        return True
