"""What the commands share that serve two nodes of a fleet themselves: which nodes, and how they end."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from warpfleet.cli.options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    check_pair,
    enter_namespaces,
    load_fleet,
    sayer,
)
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy
from warpfleet.core.errors import InputError, MissingError, WarpfleetError
from warpfleet.core.plan import Pin
from warpfleet.net.interfaces import Pipe

if TYPE_CHECKING:  # importing a node takes time, and comes after the options are checked
    from warpfleet.actors.node import Node


def choose_pair(command: str, words: Sequence[str]) -> tuple[Fleet, str, str]:
    """The fleet, initiator and responder that `[FLEET] A B` names. InputError."""
    *paths, initiator, responder = words
    if len(paths) > 1:
        raise InputError(f"{command}: {' '.join(paths)}: give one fleet file, and two nodes of it")
    if not paths and Path(initiator).is_file():
        raise InputError(f"{command}: {initiator} is a file: give two nodes behind it")
    fleet = load_fleet(Path(paths[0])) if paths else asyncio.run(_served_fleet(command))
    check_pair(fleet, initiator, responder)
    enter_namespaces(fleet)
    return fleet, initiator, responder


async def connect(node: "Node", peer: str, policy: Policy, pin: Pin) -> Pipe:
    """A pipe, as the options want it. ConnectFailed."""
    return await node.connect(peer, policy=policy, plugin_name=pin.plugin, af=pin.af, route_type=pin.route)


@contextmanager
def exit_statuses() -> Iterator[None]:
    """What ends the block otherwise than by its end, as the exit status that the command line promises."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (InputError, MissingError):
        raise
    except WarpfleetError as error:  # there is no pipe, or none any more
        print(f"warpfleet: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None


async def _served_fleet(command: str) -> Fleet:
    from warpfleet.cluster.session import served_fleet  # noqa: PLC0415 - not needed where a file is given

    return await served_fleet(sayer(command))
