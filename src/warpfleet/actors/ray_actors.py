"""Turns the roles into Ray actors. The only file outside the cluster that knows Ray."""

import asyncio
import ctypes
import gc
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from warpfleet.actors.coordinator import CommandPort, Coordinator
from warpfleet.actors.handover import SocketHandover
from warpfleet.actors.observatory_host import ObservatoryHost
from warpfleet.actors.plugin_host import HostPorts, PluginHost
from warpfleet.actors.signal_host import SignalHost, SignalPorts
from warpfleet.actors.telemetry_host import TelemetryHost
from warpfleet.core.errors import MissingError
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.experience import Evidence, Subject, Track
from warpfleet.net import descriptors
from warpfleet.telemetry.records import Row

# Attempts are not idempotent, so that Ray retries nothing; a dead actor is replaced by its supervisor, which then fails
# what ran in it. Actors wait for the network and need no core of their own. Of each call Ray would keep four events,
# which cost a tenth of it, and which nobody looks at.
_OPTIONS: dict[str, Any] = {
    "max_restarts": 0,
    "max_task_retries": 0,
    "num_cpus": 0,
    "max_concurrency": 1000,
    "enable_task_events": False,
}

# Opening a large fleet's nodes takes some ten seconds; everything else milliseconds.
_CALL_S = 60.0
_REPLACED_S = 30.0  # an actor is replaced within a second or two; a loaded machine may take ten times as long
_PR_SET_PDEATHSIG = 1  # prctl(2)
# Of new objects, before the garbage collector looks: a connection has some thousand that live as long as it does, and
# Python's own 700 would have each looked at several times.
_YOUNG_MAX = 10_000

Handle = Any
"""A Ray actor handle; its methods are not typed."""

Method = Callable[..., Coroutine[Any, Any, Any]]
"""An actor's method as a coroutine function: raises what the method raised, RayActorError where the actor is dead,
MissingError where no answer came in time."""


class Callee:
    """An actor as its callers know it: who is told of its successor reaches that one from then on."""

    def __init__(self, handle: Handle = None) -> None:
        self.handle = handle
        self._replaced = asyncio.Event()

    def replace(self, handle: Handle) -> None:
        """From now on it is this one."""
        if handle != self.handle:
            self.handle = handle
            self._replaced.set()
            self._replaced = asyncio.Event()

    def method(self, name: str, *, timeout_s: float | None = _CALL_S, patient: bool = False) -> Method:
        """One of its methods. Where it is `patient`, a call that a death cut short is made again to the successor: it
        must be one that may happen twice."""

        async def call(*arguments: object, **options: object) -> Any:
            while True:
                handle, replaced = self.handle, self._replaced
                try:
                    return await _called(handle, name, timeout_s, *arguments, **options)
                except RayActorError:
                    if not patient:
                        raise
                if handle == self.handle:
                    async with asyncio.timeout(_REPLACED_S):
                        await replaced.wait()

        return call


def remote(handle: Handle, name: str, *, timeout_s: float | None = _CALL_S) -> Method:
    """A method of this very actor."""
    return Callee(handle).method(name, timeout_s=timeout_s)


async def _called(handle: Handle, name: str, timeout_s: float | None, *arguments: object, **options: object) -> object:
    try:
        async with asyncio.timeout(timeout_s):
            return await getattr(handle, name).remote(*arguments, **options)
    except TimeoutError:
        raise MissingError(f"an actor did not answer ({name}) within {timeout_s:g} s; is it stopped?") from None
    except RayTaskError as error:
        raise error.cause from None


class _Process:
    """What every actor has as a process."""

    async def greet(self) -> int:
        """Its process id. From the first answer on the process ends with the raylet that started it, and what was
        loaded by then is none of the garbage collector's: all of it at once is a pause of 0.2 s."""
        gc.freeze()
        gc.set_threshold(_YOUNG_MAX)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return os.getpid()


class _PluginActor(_Process, PluginHost):
    """A plugin host in a process of its own: streams for other plugins leave as file descriptors. It is made without a
    plugin, so that one may stand by; `take_on` gives it one."""

    def __init__(self) -> None:
        descriptors.raise_limit()  # before the host shares them out among attempts
        super().__init__()
        self._coordinator = Callee()
        self._signal = Callee()

    async def take_on(self, plugin: str, directory: str) -> None:
        """Run this plugin from now on; `directory` is where the host's plugin actors hand streams over."""
        handover = self._handover = SocketHandover(Path(directory), plugin, self.adopt)
        self.bind(
            plugin,
            HostPorts(
                report=self._coordinator.method("report"),
                post=self._signal.method("post"),
                hand_over=handover.send,
                own_record=self._signal.method("own_record"),
                learn_record=self._signal.method("learn_record"),
                remap=self._signal.method("remap"),
                stand=self._signal.method("stand"),
                landings=Path(directory),
            ),
        )

    async def connect(self, coordinator: Handle, signal_host: Handle) -> None:
        """Learn whom to talk to. What a coordinator that is gone had started is cancelled: nobody waits for it."""
        if self._coordinator.handle not in (None, coordinator):
            await self.orphan()
        new_signal_host = self._signal.handle != signal_host
        self._coordinator.replace(coordinator)
        self._signal.replace(signal_host)
        if new_signal_host:
            self.tell_ports()

    async def close(self) -> None:
        """Close every node, and take no more streams."""
        await super().close()
        self._handover.close()


class _RemoteObservatory:
    """The observatory, as the coordinator and the signal host call it."""

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    async def recall(self, place: Exit) -> KnownNat | None:
        known: KnownNat | None = await self._callee.method("recall")(place)
        return known

    async def remember(self, nats: Sequence[KnownNat]) -> None:
        await self._callee.method("remember")(nats)

    async def tracks(self, subjects: Sequence[Subject]) -> dict[Subject, Track]:
        tracks: dict[Subject, Track] = await self._callee.method("tracks")(subjects)
        return tracks

    async def learn(self, evidence: Sequence[Evidence]) -> None:
        await self._callee.method("learn")(evidence)


class _SignalActor(_Process, SignalHost):
    async def connect(self, plugins: Mapping[str, Handle], coordinator: Handle, observatory: Handle) -> None:
        """Learn whom to talk to; plugins that are not named stay as they are."""
        deliver = {plugin: remote(handle, "deliver") for plugin, handle in plugins.items()}
        take_views = {plugin: remote(handle, "take_views") for plugin, handle in plugins.items()}
        memory = _RemoteObservatory(Callee(observatory))
        learn = remote(coordinator, "learn")
        self.bind(SignalPorts(deliver=deliver, learn=learn, memory=memory, take_views=take_views))


class _RemoteTelemetry:
    """Rows must not be lost with the actor that was to write them: they are offered to its successor again, and the
    store knows which of them it has."""

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    async def write(self, rows: Sequence[Row]) -> dict[str, str]:
        failed: dict[str, str] = await self._callee.method("write", patient=True)(rows)
        return failed


class _CoordinatorActor(_Process, Coordinator):
    def __init__(self) -> None:
        self._telemetry_actor = Callee()
        self._observatory_actor = Callee()
        super().__init__(_RemoteTelemetry(self._telemetry_actor), _RemoteObservatory(self._observatory_actor))

    async def connect_hosts(self, telemetry: Handle, observatory: Handle) -> None:
        """Learn who writes rows, and whom to ask what is known."""
        self._telemetry_actor.replace(telemetry)
        self._observatory_actor.replace(observatory)

    async def connect_plugins(self, plugins: Mapping[str, Handle]) -> None:
        """Learn where plugins run."""
        ports: dict[str, CommandPort] = {plugin: remote(handle, "command") for plugin, handle in plugins.items()}
        await self.bind(ports)


class _TelemetryActor(_Process, TelemetryHost):
    pass


class _ObservatoryActor(_Process, ObservatoryHost):
    pass


PluginActor = ray.remote(**_OPTIONS)(_PluginActor)
SignalActor = ray.remote(**_OPTIONS)(_SignalActor)
CoordinatorActor = ray.remote(**_OPTIONS)(_CoordinatorActor)
TelemetryActor = ray.remote(**_OPTIONS)(_TelemetryActor)
ObservatoryActor = ray.remote(**_OPTIONS)(_ObservatoryActor)
