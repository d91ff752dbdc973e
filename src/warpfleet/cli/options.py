"""Options that several commands share."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from warpfleet.configs.fleet import Fleet
from warpfleet.configs.loader import load
from warpfleet.core.combo import RouteType
from warpfleet.core.errors import InputError
from warpfleet.lab import rootless

FleetPath = Annotated[Path, typer.Argument(metavar="FLEET", help="The fleet file.")]
Json = Annotated[bool, typer.Option("--json", help="Machine output on stdout.")]
Only = Annotated[str | None, typer.Option("--only", metavar="PLUGIN", help="Try this plugin alone.")]


EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as shells say of a command that Ctrl-C ended
_FILE_WIDTH = 120  # columns of a table that goes to a file or a pipe


def console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def sayer(what: str) -> Callable[[str], None]:
    """What tells the user, on stderr, how far a command has come."""
    return lambda message: print(f"{what}: {message}", file=sys.stderr, flush=True)


class Family(StrEnum):
    """The address families, as an option takes them."""

    V4 = "4"
    V6 = "6"


Route = Annotated[RouteType | None, typer.Option("--route", help="Try this route type alone.")]
Af = Annotated[Family | None, typer.Option("--af", help="Try this address family alone.")]


def load_fleet(path: Path) -> Fleet:
    """The fleet file. InputError."""
    return load(path, Fleet)


def enter_namespaces(fleet: Fleet) -> None:
    """Return where this process may enter the namespaces that the fleet names; else run it again where it may."""
    if any(node.vantage and node.vantage.netns for node in fleet.nodes):
        rootless.ensure_privilege()


def check_pair(fleet: Fleet, initiator: str, responder: str) -> None:
    """InputError unless these are two nodes of the fleet."""
    for name in (initiator, responder):
        fleet.node(name)
    if initiator == responder:
        raise InputError(f"{initiator} cannot be connected with itself; name two nodes")


def check_plugin(name: str | None) -> str | None:
    """The pinned plugin. InputError where it does not exist or yields no pipe."""
    if name is None:
        return None
    from warpfleet.plugins.loader import registrations  # noqa: PLC0415 - every plugin is imported for it

    able = [r.name for r in registrations() if r.strategy.carries_pipe]
    if name not in able:
        raise InputError(f"--only {name}: no plugin of this name makes connections; there are {', '.join(able)}")
    return name
