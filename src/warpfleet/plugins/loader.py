"""Finds the plugins: the built-in ones in this folder, outside ones by their entry points."""

import logging
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

import warpfleet.plugins
from warpfleet.plugins.attempt_messages import Abandon
from warpfleet.plugins.registry import REGISTRY, Registration
from warpfleet.signal.messages import MessageTypes

ENTRY_POINT_GROUP = "warpgate.strategies"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """One plugin that was found: where, and what is wrong where it could not be loaded."""

    source: str
    registration: Registration | None
    problem: str = ""


@cache
def load_plugins() -> tuple[Found, ...]:
    """Import every plugin once. One that does not load is reported and left out; the others work without it."""
    found = [_load(f"{warpfleet.plugins.__name__}.{name}", "built in", name) for name in _built_in_names()]
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        distribution = entry_point.dist.name if entry_point.dist else "unknown distribution"
        found.append(_load(entry_point.value.partition(":")[0], distribution, entry_point.name))
    for item in found:
        if item.problem:
            _log.warning("plugin from %s left out: %s", item.source, item.problem)
    return tuple(found)


def registrations() -> tuple[Registration, ...]:
    """What is registered, every plugin loaded."""
    load_plugins()
    return tuple(REGISTRY)


def message_types() -> MessageTypes:
    """The kinds of messages that the plugins exchange."""
    return MessageTypes([Abandon, *(message for r in registrations() for message in r.strategy.proto_messages)])


def message_owners() -> dict[str, str]:
    """Which plugin takes a message: from its kind to the plugin's name."""
    return {message.kind: r.name for r in registrations() for message in r.strategy.proto_messages}


def _built_in_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(warpfleet.plugins.__path__) if module.ispkg)


def _load(module: str, source: str, name: str) -> Found:
    before = set(REGISTRY)
    problem = ""
    try:
        import_module(module)
        MessageTypes([Abandon, *(message for r in REGISTRY for message in r.strategy.proto_messages)])
    except Exception as error:  # noqa: BLE001 - an outside module may raise anything while it is imported
        problem = f"{type(error).__name__}: {error}"
    own = [r for r in REGISTRY if r not in before or f"{r.strategy.__module__}.".startswith(f"{module}.")]
    if not problem and own:
        return Found(source, own[0])
    for registration in own:
        REGISTRY.remove(registration)
    return Found(f"{source} ({name})", None, problem or "it registers nothing")
