"""`warpfleet pipe`: standard input at one node, standard output at the other."""

import asyncio
from typing import Annotated

import typer

from warpfleet.actors.together import together
from warpfleet.cli.inline import choose_pair, connect, exit_statuses
from warpfleet.cli.options import Af, Only, Route, check_plugin, sayer
from warpfleet.cli.standard_streams import read_input, write_output
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy
from warpfleet.core.errors import InputError, MissingError
from warpfleet.core.plan import Pin
from warpfleet.net.interfaces import ConnectionLost, Pipe

_EXIT_NOBODY_READS = 141  # as shells say of a command that SIGPIPE ended
_ARRIVAL_S = 5.0  # the responder has its end of a pipe within a round trip of the initiator


def pipe(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[FLEET] A B",
            help="Initiator and responder; without a fleet file, of the fleet that the running cluster serves.",
            show_default=False,
        ),
    ],
    policy: Policy = Policy.STAGGERED,
    only: Only = None,
    af: Af = None,
    route: Route = None,
) -> None:
    """Send what comes in on stdin from node A to node B, and put it out on stdout there, as nc does.

    Both nodes are served by this command. Exit status 1 where they could not be connected, or the pipe broke.
    """
    if len(words) < 2:
        raise InputError("pipe: give two nodes, and a fleet file before them unless a cluster is up")
    pin = Pin(check_plugin(only), int(af) if af else None, route)
    fleet, initiator, responder = choose_pair("pipe", words)
    with exit_statuses():
        try:
            asyncio.run(_pipe(fleet, initiator, responder, policy, pin))
        except BrokenPipeError:
            raise typer.Exit(_EXIT_NOBODY_READS) from None
        except OSError as error:
            raise MissingError(f"standard input or output fails: {error.strerror}") from None


async def _pipe(fleet: Fleet, initiator: str, responder: str, policy: Policy, pin: Pin) -> None:
    from warpfleet.cluster.pair import open_pair  # noqa: PLC0415 - the options are checked sooner

    async with open_pair(fleet, initiator, responder) as (near, far):
        outgoing = await connect(near, responder, policy, pin)
        try:
            async with asyncio.timeout(_ARRIVAL_S):
                incoming = await anext(far.accept())
        except TimeoutError:
            raise ConnectionLost(f"the pipe did not arrive at {responder}") from None
        sayer("pipe")(f"{initiator} -> {responder} over {outgoing.path}")
        try:
            await together(_feed(outgoing), _drain(incoming))
        finally:
            await together(outgoing.close(), incoming.close())  # each waits for the other


async def _feed(pipe: Pipe) -> None:
    while data := await read_input():
        await pipe.send(data)
    await pipe.send_eof()


async def _drain(pipe: Pipe) -> None:
    async for data in pipe:
        await write_output(data)
