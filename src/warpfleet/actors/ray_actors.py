"""Turns the roles into Ray actors. The only file outside the cluster that knows Ray."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from warpfleet.actors.coordinator import CommandPort, Coordinator
from warpfleet.actors.handover import StreamHandover
from warpfleet.actors.plugin_host import HostPorts, PluginHost
from warpfleet.actors.signal_host import SignalHost, SignalPorts
from warpfleet.actors.telemetry_host import TelemetryHost
from warpfleet.core.errors import MissingError

# Attempts are not idempotent, so that nothing is retried; a dead actor is replaced by its supervisor, which then fails
# what ran in it. Actors wait for the network and need no core of their own.
_OPTIONS: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0, "max_concurrency": 1000}


# Opening a large fleet's nodes takes some ten seconds; everything else milliseconds.
_CALL_S = 60.0

Handle = Any
"""A Ray actor handle; its methods are not typed."""


def remote(
    handle: Handle, method: str, *, timeout_s: float | None = _CALL_S
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """An actor's method as a coroutine function; it raises what the method raised, or MissingError where nothing came
    in time."""

    async def call(*arguments: object, **options: object) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await getattr(handle, method).remote(*arguments, **options)
        except TimeoutError:
            raise MissingError(f"an actor did not answer ({method}) within {timeout_s:g} s; is it stopped?") from None
        except RayTaskError as error:
            raise error.cause from None

    return call


class _PluginActor(PluginHost):
    """A plugin host in a process of its own: streams for other plugins leave as file descriptors."""

    async def close(self) -> None:
        """Close every node, and take no more streams."""
        await super().close()
        self._handover.close()

    async def pid(self) -> int:
        """The process that this actor is."""
        return os.getpid()

    async def connect(self, directory: str, coordinator: Handle, signal: Handle) -> None:
        """Learn whom to talk to; `directory` is where the host's plugin actors hand streams over."""
        handover = self._handover = StreamHandover(Path(directory), self.registration.name, self.adopt)
        self.bind(
            HostPorts(
                report=remote(coordinator, "report"),
                post=remote(signal, "post"),
                hand_over=handover.send,
                own_record=remote(signal, "own_record"),
                learn_record=remote(signal, "learn_record"),
            )
        )


class _SignalActor(SignalHost):
    async def connect(self, plugins: Mapping[str, Handle], coordinator: Handle) -> None:
        """Learn whom to talk to."""
        deliver = {plugin: remote(handle, "deliver") for plugin, handle in plugins.items()}
        self.bind(SignalPorts(deliver=deliver, learn=remote(coordinator, "learn")))


class _RemoteTelemetry:
    def __init__(self, handle: Handle) -> None:
        self.started = remote(handle, "started")
        self.connections = remote(handle, "connections")
        self.attempts = remote(handle, "attempts")


class _CoordinatorActor(Coordinator):
    def __init__(self, telemetry: Handle) -> None:
        super().__init__(_RemoteTelemetry(telemetry))

    async def connect_plugins(self, plugins: Mapping[str, Handle]) -> None:
        """Learn where plugins run."""
        ports: dict[str, CommandPort] = {plugin: remote(handle, "command") for plugin, handle in plugins.items()}
        await self.bind(ports)


PluginActor = ray.remote(**_OPTIONS)(_PluginActor)
SignalActor = ray.remote(**_OPTIONS)(_SignalActor)
CoordinatorActor = ray.remote(**_OPTIONS)(_CoordinatorActor)
TelemetryActor = ray.remote(**_OPTIONS)(TelemetryHost)
