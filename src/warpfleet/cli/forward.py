"""`warpfleet forward`: a local port that leads to one beside a peer."""

import asyncio
from functools import partial
from typing import Annotated

import typer

from warpfleet.cli.inline import choose_pair, connect, exit_statuses
from warpfleet.cli.options import Af, Only, Route, check_plugin, sayer
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy
from warpfleet.core.errors import InputError
from warpfleet.core.forward import Forwarding
from warpfleet.core.plan import Pin


def forward(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[FLEET] A B [BIND:]PORT:HOST:HOSTPORT",
            help="Initiator and responder, as for `pipe`; the local port (0: any that is free) and where it leads.",
            show_default=False,
        ),
    ],
    policy: Policy = Policy.STAGGERED,
    only: Only = None,
    af: Af = None,
    route: Route = None,
) -> None:
    """Have each connection to a local port carried from node A to node B, which dials HOST:HOSTPORT, as ssh -L does.

    B dials what `forward` of the fleet file permits it to dial, and nothing else. Both nodes are served by this
    command, which runs until Ctrl-C. The local address is printed on stdout once it takes connections.
    """
    if len(words) < 3:
        raise InputError("forward: give two nodes, a fleet file before them unless a cluster is up, and PORT:HOST:PORT")
    *words, text = words
    try:
        forwarding = Forwarding.parse(text)
    except ValueError as error:
        raise InputError(f"forward: {text}: {error}") from None
    pin = Pin(check_plugin(only), int(af) if af else None, route)
    fleet, initiator, responder = choose_pair("forward", words)
    if not any(permission.covers(forwarding.destination) for permission in fleet.node(responder).forward):
        raise InputError(
            f"forward: {responder} does not permit {forwarding.destination}: "
            f'add "{forwarding.destination}" to `forward` of its entry in the fleet file'
        )
    with exit_statuses():
        asyncio.run(_forward(fleet, initiator, responder, forwarding, policy, pin))


async def _forward(
    fleet: Fleet, initiator: str, responder: str, forwarding: Forwarding, policy: Policy, pin: Pin
) -> None:
    from warpfleet.actors.forwarder import forwarded_port, serve_forwards  # noqa: PLC0415 - options are checked sooner
    from warpfleet.cluster.pair import open_pair  # noqa: PLC0415
    from warpfleet.net.vantage import Vantage  # noqa: PLC0415

    say = sayer("forward")
    node = fleet.node(responder)
    async with (
        open_pair(fleet, initiator, responder) as (near, far),
        forwarded_port(forwarding, partial(connect, near, responder, policy, pin), say) as local,
    ):
        print(local, flush=True)
        say(f"{local} -> {initiator} -> {responder} -> {forwarding.destination}")
        await serve_forwards(far.accept(), node.forward, Vantage.of(node.vantage))
