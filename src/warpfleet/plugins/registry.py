"""What is registered: the one table from a plugin's name to its class."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from warpfleet.core.combo import Phase
from warpfleet.core.errors import InputError
from warpfleet.core.plan import Technique
from warpfleet.net.handshake import PLUGIN_NAME_MAX_BYTES
from warpfleet.plugins.contract import Strategy


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered plugin. `phase` is None for an auxiliary one."""

    strategy: type[Strategy]
    phase: Phase | None

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.strategy.name

    @property
    def technique(self) -> Technique:
        """What the planner needs to know."""
        s = self.strategy
        return Technique(
            plugin=s.name,
            phase=self.phase,
            transport=s.transport,
            requirement=s.requirement,
            routes=s.routes,
            families=s.families,
        )


class Registry:
    """A table of plugins, in the order of their registration."""

    def __init__(self) -> None:
        self._entries: dict[str, Registration] = {}

    def add(self, registration: Registration) -> None:
        """Add a plugin. InputError where it lacks an attribute, or its name is unusable or taken."""
        strategy = registration.strategy
        where = f"{strategy.__module__}.{strategy.__qualname__}"
        for attribute in ("name", "transport", "requirement", "routes"):
            if not hasattr(strategy, attribute):
                raise InputError(f"plugin {where} does not state `{attribute}`")
        name = strategy.name
        if not name.isascii() or not name.isidentifier() or len(name) > PLUGIN_NAME_MAX_BYTES:
            raise InputError(f"plugin {where}: name {name!r} must be an identifier of at most {PLUGIN_NAME_MAX_BYTES}")
        known = self._entries.setdefault(name, registration)
        if known.strategy is not strategy:
            raise InputError(f"plugin {where}: the name {name!r} is taken by {known.strategy.__module__}")

    def remove(self, registration: Registration) -> None:
        """Take a plugin out that turned out to be unusable."""
        del self._entries[registration.name]

    def get(self, name: str) -> Registration:
        """One plugin. InputError where there is none of this name."""
        if name not in self._entries:
            raise InputError(f"there is no plugin {name!r}; there are: {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._entries.values())


S = TypeVar("S", bound=type[Strategy])

REGISTRY = Registry()


def register(*, phase: Phase | None = None) -> Callable[[S], S]:
    """Class decorator: register a plugin for a phase, or (None) as an auxiliary one."""

    def add(strategy: S) -> S:
        REGISTRY.add(Registration(strategy, phase))
        return strategy

    return add
