"""The actors of this host: started, introduced to one another, and replaced when they die."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from warpfleet.actors.own_node import NodeReport
from warpfleet.actors.ray_actors import (
    CoordinatorActor,
    Handle,
    ObservatoryActor,
    PluginActor,
    SignalActor,
    TelemetryActor,
    remote,
)
from warpfleet.actors.values import NodeSpec
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import MissingError
from warpfleet.plugins.loader import registrations
from warpfleet.signal.clock import best_offset_s
from warpfleet.telemetry.records import NatObservationRow
from warpfleet.telemetry.sweep import Sweep

_START_S = 60.0  # for the first answer of a new actor: half a second each, on a loaded machine many times that
_CLOSE_S = 5.0
_RETRY_S = 0.2  # an actor that a new one is introduced to may have died, too: its own successor is on its way
_REVIVALS_MAX = 20  # tries to put a new actor in the place of a dead one
_REVIVE_S = 30.0  # for one such try: the nodes' listeners, connections to the brokers

TELEMETRY, OBSERVATORY, COORDINATOR, SIGNAL = "telemetry", "observatory", "coordinator", "signal"

_log = logging.getLogger(__name__)


class ClusterLost(MissingError):
    """Ray has died, or an actor that could not be replaced."""


@dataclass(slots=True)
class Actor:
    """One actor: its handle changes when it is replaced. `pid` is None while it starts, and `ready` is set once it has
    been introduced to the others."""

    role: str
    handle: Handle
    pid: int | None = None
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """The actors of one host, and the nodes that are open on them. One for each fleet that is opened: what was trusted
    for one fleet ends with its actors."""

    def __init__(self, folder: Path, observatory_path: Path) -> None:
        self._folder = folder
        self._observatory_path = observatory_path
        self._plugins = [r.name for r in registrations()]
        self.actors: dict[str, Actor] = {}
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.coordinators = 0  # how many there have been: what one had under way ends with it
        self.reports: list[NodeReport] = []
        self.probes_counted = False  # whether a sweep has recorded what it took to find them out
        self._spare: Handle = None
        self._writer: Handle = None  # the telemetry actor that has the open sweeps: another one would drop their rows
        self.specs: Sequence[NodeSpec] = ()
        self._opened: dict[str, dict[str, list[Endpoint] | None]] = {}
        self._sweeps: dict[str, tuple[Path, Sweep]] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start and introduce all actors, and watch over them. MissingError."""
        for role in (TELEMETRY, OBSERVATORY, COORDINATOR, SIGNAL, *self._plugins):
            self.actors[role] = Actor(role, self._create(role))
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.gather(*(self._greet(actor) for actor in self.actors.values()))
                for introduce in (self._introduce_coordinator, self._introduce_signal):
                    await introduce()
                await asyncio.gather(*(self._introduce_plugin(plugin) for plugin in self._plugins))
        except TimeoutError:
            raise MissingError(f"the actors did not start within {_START_S:g} s; is this machine overloaded?") from None
        for actor in self.actors.values():
            actor.ready.set()
            self._keepers.append(asyncio.create_task(self._keep(actor)))
        self._spare = PluginActor.remote()  # not before: its start takes what theirs need

    async def open(self, specs: Sequence[NodeSpec]) -> None:
        """Open a fleet's nodes. MissingError where a broker, a port or a peer's record is out of reach."""
        self.specs = specs
        await asyncio.gather(*(self._open_nodes(plugin) for plugin in self._plugins))
        self.reports = await self._open_signals()
        await asyncio.gather(*(self._give_views(plugin) for plugin in self._plugins))
        await asyncio.gather(*(self.call(plugin, "settle")() for plugin in self._plugins))
        await self.refresh_reports()

    async def close(self) -> None:
        """Close the nodes and end the actors; what hangs is left to the end of Ray."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for roles in ([COORDINATOR], [*self._plugins, SIGNAL], [OBSERVATORY, TELEMETRY]):
            closing = [asyncio.ensure_future(self.call(role, "close")()) for role in roles]
            await asyncio.wait(closing, timeout=_CLOSE_S)

    def call(self, role: str, method: str, *, timeout_s: float | None = _START_S) -> Callable[..., Awaitable[object]]:
        """A method of the actor that has this role now."""
        return remote(self.actors[role].handle, method, timeout_s=timeout_s)

    async def refresh_reports(self) -> None:
        """Learn what the nodes have found out since they were opened; what they had found, while nobody can say."""
        with suppress(RayError):
            reports = await self.call(SIGNAL, "reports")()
            assert isinstance(reports, list)
            if len(reports) == len(self.specs):  # a new signal host may still be opening some
                self.reports = reports

    async def ask(self, role: str, method: str, *arguments: object, **options: object) -> object:
        """Call a method of an actor, once it is there. RayError where it dies before it answers; ClusterLost."""
        ready = asyncio.ensure_future(self.actors[role].ready.wait())
        waiting: set[asyncio.Future[Any]] = {ready, self.lost}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self.lost.done():
            raise ClusterLost(f"{self.lost.result()}; what is recorded stays: go on with --resume")
        return await self.call(role, method)(*arguments, **options)

    async def open_sweep(self, directory: Path, sweep: Sweep, *, resume: bool) -> Sweep:
        """Have a sweep recorded; the sweep as it is recorded. InputError where the directory cannot take it."""
        recorded = await self._patiently(TELEMETRY, "open_sweep", directory, sweep, resume=resume)
        assert isinstance(recorded, Sweep)
        self._sweeps[recorded.sweep_id] = directory, recorded
        return recorded

    async def record_observations(self, rows: Sequence[NatObservationRow]) -> None:
        """Have what was seen of NATs recorded."""
        await self._patiently(TELEMETRY, "write", rows)
        self.probes_counted = True

    async def close_sweep(self, sweep_id: str) -> None:
        """Bring every row of a sweep into its tables."""
        try:
            await self._patiently(TELEMETRY, "close_sweep", sweep_id)
        finally:
            self._sweeps.pop(sweep_id, None)

    async def _patiently(self, role: str, method: str, *arguments: object, **options: object) -> object:
        """Call a method that may be called twice, on the successor of an actor that dies meanwhile."""
        for _ in range(_REVIVALS_MAX):
            with suppress(RayError):
                return await self.ask(role, method, *arguments, **options)
            await asyncio.sleep(_RETRY_S)  # it may not be known yet that the actor is dead
        raise ClusterLost(f"the {role} actor died and was not replaced")

    def _create(self, role: str) -> Handle:
        if role == OBSERVATORY:
            return ObservatoryActor.remote(self._observatory_path)
        kinds: dict[str, Handle] = {TELEMETRY: TelemetryActor, COORDINATOR: CoordinatorActor, SIGNAL: SignalActor}
        return kinds.get(role, PluginActor).remote()

    async def _greet(self, actor: Actor) -> None:
        actor.pid = await remote(actor.handle, "greet")()
        if actor.role in self._plugins:
            await remote(actor.handle, "take_on")(actor.role, str(self._folder))

    async def _introduce_plugin(self, plugin: str) -> None:
        """Its nodes listen anew, on ports that may be others; then the others learn of it."""
        handle = self.actors[plugin].handle
        await self._acquaint(plugin)
        opened = await self._open_nodes(plugin)
        await self.refresh_reports()
        await self._give_views(plugin)
        await self._tell_signal({plugin: handle})
        await self.call(SIGNAL, "relisten")({node: ports for node, ports in opened.items() if ports})
        await self.call(COORDINATOR, "connect_plugins")({plugin: handle})

    async def _introduce_coordinator(self) -> None:
        handle = self.actors[COORDINATOR].handle
        await self._introduce_telemetry()
        await self.call(TELEMETRY, "coordinator_died")()
        self.coordinators += 1
        for plugin in self._opened:
            await self._acquaint(plugin)
            await self._tell_opted_out(plugin)
        await remote(handle, "connect_plugins")({plugin: self.actors[plugin].handle for plugin in self._opened})
        await self._tell_signal({plugin: self.actors[plugin].handle for plugin in self._opened})
        await self.call(SIGNAL, "tell_records")()

    async def _introduce_signal(self) -> None:
        """The new one connects and publishes again what the one before had found out; nothing is probed again."""
        await self._tell_signal({plugin: self.actors[plugin].handle for plugin in self._plugins})
        if self.reports:
            self.reports = await self._open_signals()
        await asyncio.gather(*(self._acquaint(plugin) for plugin in self._opened))
        await self.call(COORDINATOR, "signal_back")()

    async def _introduce_telemetry(self) -> None:
        """The new one takes the open sweeps over before anybody offers it rows."""
        for directory, sweep in self._sweeps.values():
            await self.call(TELEMETRY, "open_sweep")(directory, sweep, resume=True, take_over=True)
        self._writer = self.actors[TELEMETRY].handle
        await self._introduce_observatory()

    async def _introduce_observatory(self) -> None:
        await self.call(COORDINATOR, "connect_hosts")(self._writer, self.actors[OBSERVATORY].handle)
        await self._tell_signal({})

    async def _acquaint(self, plugin: str) -> None:
        await self.call(plugin, "connect")(self.actors[COORDINATOR].handle, self.actors[SIGNAL].handle)

    async def _tell_signal(self, plugins: dict[str, Handle]) -> None:
        coordinator, observatory = self.actors[COORDINATOR].handle, self.actors[OBSERVATORY].handle
        await self.call(SIGNAL, "connect")(plugins, coordinator, observatory)

    async def _open_nodes(self, plugin: str) -> dict[str, list[Endpoint] | None]:
        opened = await self.call(plugin, "open_nodes")(self.specs, [spec.identity.public for spec in self.specs])
        assert isinstance(opened, dict)
        self._opened[plugin] = opened
        await self._tell_opted_out(plugin)
        return opened

    async def _tell_opted_out(self, plugin: str) -> None:
        opted_out = [(plugin, node) for node, ports in self._opened[plugin].items() if ports is None]
        await self.call(COORDINATOR, "opted_out")(opted_out)

    async def _open_signals(self) -> list[NodeReport]:
        listeners = {node: ports for opened in self._opened.values() for node, ports in opened.items() if ports}
        roster = [spec.identity.public for spec in self.specs]
        reports = await self.call(SIGNAL, "open_nodes")(self.specs, listeners, roster, self.reports)
        assert isinstance(reports, list)
        return reports

    async def _give_views(self, plugin: str) -> None:
        offset_s = best_offset_s(report.clock for report in self.reports)
        await self.call(plugin, "take_views")({report.name: report.view for report in self.reports}, offset_s)

    async def _keep(self, actor: Actor) -> None:
        """Put a new actor in the place of one that dies, each time."""
        introduce: dict[str, Callable[[], Awaitable[None]]] = {
            TELEMETRY: self._introduce_telemetry,
            OBSERVATORY: self._introduce_observatory,
            COORDINATOR: self._introduce_coordinator,
            SIGNAL: self._introduce_signal,
        }
        while True:
            try:
                await remote(actor.handle, "serve", timeout_s=None)()
                return
            except RayError as error:
                _log.warning("the %s actor died (%s): replacing it", actor.role, type(error).__name__)
            actor.ready.clear()
            actor.pid = None
            actor.restarts += 1
            if not await self._revive(actor, introduce.get(actor.role, lambda: self._introduce_plugin(actor.role))):
                if not self.lost.done():
                    self.lost.set_result(f"the {actor.role} actor died and could not be replaced")
                return
            actor.ready.set()
            self._spare = self._spare or PluginActor.remote()  # not before: its start takes what its predecessor needs

    async def _revive(self, actor: Actor, introduce: Callable[[], Awaitable[None]]) -> bool:
        for _ in range(_REVIVALS_MAX):
            with suppress(RayError, TimeoutError, MissingError):
                async with asyncio.timeout(_REVIVE_S):
                    await self._announce_death(actor)
                    actor.handle = await self._successor(actor.role)
                    await self._greet(actor)
                    await introduce()
                    return True
            if self.lost.done():
                return False
            await asyncio.sleep(_RETRY_S)  # what it was introduced to is being replaced itself
        return False

    async def _announce_death(self, actor: Actor) -> None:
        if actor.role in self._plugins:
            await self.call(COORDINATOR, "plugin_died")(actor.role)
        elif actor.role == SIGNAL:
            await self.call(COORDINATOR, "signal_died")()

    async def _successor(self, role: str) -> Handle:
        """A new actor; for a plugin the one that stands by, if it lives."""
        if role not in self._plugins:
            return self._create(role)
        spare, self._spare = self._spare, None
        try:
            await remote(spare, "greet")() if spare else None
        except RayError:
            spare = None
        return spare or self._create(role)
