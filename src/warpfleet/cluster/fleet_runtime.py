"""A fleet brought up on Ray: its actors, their supervision, and its nodes."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ray.exceptions import RayError

from warpfleet.actors.ray_actors import CoordinatorActor, Handle, PluginActor, SignalActor, TelemetryActor, remote
from warpfleet.actors.signal_host import NodeReport
from warpfleet.actors.values import NodeSpec
from warpfleet.cluster.services import with_embedded_services
from warpfleet.configs.fleet import Fleet, FleetNode
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import MissingError
from warpfleet.core.identity import Identity
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.loader import registrations

_START_S = 60.0  # for the first answer of a new actor: half a second each, on a loaded machine many times that
_CLOSE_S = 5.0

_log = logging.getLogger(__name__)


class ClusterLost(MissingError):
    """An actor that the fleet cannot do without has died."""


class FleetRuntime:
    """The actors of one host and the nodes of a fleet on them. Made by `fleet_runtime`."""

    def __init__(self, folder: Path, specs: Sequence[NodeSpec]) -> None:
        self._folder = folder
        self._specs = list(specs)
        self._roster = [spec.identity.public for spec in specs]
        self.telemetry: Handle = TelemetryActor.remote()
        self.coordinator: Handle = CoordinatorActor.remote(self.telemetry)
        self.signal: Handle = SignalActor.remote()
        self.plugins: dict[str, Handle] = {r.name: PluginActor.remote(r.name) for r in registrations()}
        self.reports: list[NodeReport] = []
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watchers: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect the actors and open the nodes. MissingError."""
        for plugin, handle in self.plugins.items():
            self._watchers.append(asyncio.create_task(self._supervise(plugin, handle)))
        for name in ("telemetry", "coordinator", "signal"):
            self._watchers.append(asyncio.create_task(self._watch(name, getattr(self, name))))
        async with asyncio.timeout(_START_S):
            await asyncio.gather(*(self._connect(handle) for handle in self.plugins.values()))
            await remote(self.signal, "connect")(self.plugins, self.coordinator)
            await remote(self.coordinator, "connect_plugins")(self.plugins)
            opened = await asyncio.gather(*(self._open_nodes(name, h) for name, h in self.plugins.items()))
        listeners = {node: ports for one in opened for node, ports in one.items() if ports}
        self.reports = await remote(self.signal, "open_nodes")(self._specs, listeners, self._roster)
        await asyncio.gather(*(self._give_views(handle) for handle in self.plugins.values()))

    async def close(self) -> None:
        """Close the nodes; what hangs is left to the end of Ray."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for handles in ([self.coordinator], [*self.plugins.values(), self.signal], [self.telemetry]):
            closing = [asyncio.ensure_future(remote(handle, "close")()) for handle in handles]
            await asyncio.wait(closing, timeout=_CLOSE_S)

    async def _connect(self, handle: Handle) -> None:
        await remote(handle, "connect")(str(self._folder), self.coordinator, self.signal)

    async def _open_nodes(self, plugin: str, handle: Handle) -> dict[str, list[Endpoint] | None]:
        opened: dict[str, list[Endpoint] | None] = await remote(handle, "open_nodes")(self._specs, self._roster)
        opted_out = [(plugin, node) for node, listeners in opened.items() if listeners is None]
        await remote(self.coordinator, "opted_out")(opted_out)
        return opened

    async def _give_views(self, handle: Handle) -> None:
        await remote(handle, "take_views")({report.name: report.view for report in self.reports})

    async def _watch(self, name: str, handle: Handle) -> None:
        try:
            await remote(handle, "serve", timeout_s=None)()
        except RayError as error:
            _log.error("the %s actor died: %s", name, type(error).__name__)
            if not self.lost.done():
                self.lost.set_result(f"the {name} actor died")

    async def _supervise(self, plugin: str, handle: Handle) -> None:
        """Replace a plugin's actor whenever it dies; what ran in it fails with a reason."""
        while True:
            try:
                await remote(handle, "serve", timeout_s=None)()
                return
            except RayError as error:
                _log.warning("the actor of plugin %s died (%s): replacing it", plugin, type(error).__name__)
            await remote(self.coordinator, "plugin_died")(plugin)
            handle = PluginActor.remote(plugin)
            try:
                await self._replace(plugin, handle)
            except RayError:
                continue

    async def _replace(self, plugin: str, handle: Handle) -> None:
        await self._connect(handle)
        opened = await self._open_nodes(plugin, handle)
        await self._give_views(handle)
        self.plugins[plugin] = handle
        await remote(self.signal, "connect")({plugin: handle}, self.coordinator)
        await remote(self.signal, "relisten")({node: ports for node, ports in opened.items() if ports})
        await remote(self.coordinator, "connect_plugins")({plugin: handle})


@asynccontextmanager
async def fleet_runtime(fleet: Fleet, folder: Path) -> AsyncIterator[FleetRuntime]:
    """The fleet's nodes are open until the block ends. Ray must be up (`ray_session`). MissingError."""
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(with_embedded_services(fleet))
        runtime = FleetRuntime(folder, [_spec(node, fleet) for node in fleet.nodes])
        stack.push_async_callback(runtime.close)
        await runtime.open()
        yield runtime


def _spec(node: FleetNode, fleet: Fleet) -> NodeSpec:
    services = fleet.services
    return NodeSpec(
        identity=Identity.generate(node.name, secrets.token_bytes(32)),
        vantage=Vantage.of(node.vantage),
        listen=node.listen,
        brokers=services.mqtt,
        stun=services.stun,
        turn=services.turn,
        ntp=tuple(str(server) for server in services.ntp),
        realm=fleet.realm,
    )
