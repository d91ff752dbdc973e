"""`warpfleet connect`: one connection, measured."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer

from warpfleet.cli.options import (
    EXIT_FAILED,
    Af,
    FleetPath,
    Json,
    Only,
    Route,
    check_pair,
    check_plugin,
    enter_namespaces,
    load_fleet,
    sayer,
)
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import ConnectionOutcome, Policy
from warpfleet.core.pairs import Trial
from warpfleet.core.plan import Pin
from warpfleet.telemetry.reasons import sentence
from warpfleet.telemetry.records import ConnectionRow

_CONNECTED = (ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED)


def connect(
    fleet_path: FleetPath,
    initiator: Annotated[str, typer.Argument(metavar="A", help="The initiator.")],
    responder: Annotated[str, typer.Argument(metavar="B", help="The responder.")],
    policy: Policy = Policy.STAGGERED,
    only: Only = None,
    af: Af = None,
    route: Route = None,
    as_json: Json = False,
) -> None:
    """Connect two nodes of a fleet once, and say how. Exit status 1 where they could not be connected."""
    check_plugin(only)
    fleet = load_fleet(fleet_path)
    check_pair(fleet, initiator, responder)
    enter_namespaces(fleet)
    pin = Pin(only, int(af) if af else None, route)
    row = asyncio.run(_connect(fleet, Trial(initiator, responder, 0), policy, pin))
    print(json.dumps(asdict(row), default=str) if as_json else _sentence(row))
    if row.outcome not in _CONNECTED:
        raise typer.Exit(EXIT_FAILED)


async def _connect(fleet: Fleet, trial: Trial, policy: Policy, pin: Pin) -> ConnectionRow:
    from warpfleet.cluster.control import ConnectRequest  # noqa: PLC0415 - the other options are checked sooner
    from warpfleet.cluster.session import ask_cluster  # noqa: PLC0415

    request = ConnectRequest(fleet=fleet, trial=trial, policy=policy, pin=pin)
    row = await ask_cluster(fleet, request, say=sayer("connect"))
    assert isinstance(row, ConnectionRow)
    return row


def _sentence(row: ConnectionRow) -> str:
    pair = f"{row.initiator} -> {row.responder}"
    nats = f"{row.initiator_nat} to {row.responder_nat}"
    if row.outcome not in _CONNECTED:
        why = sentence(row.reason) if row.reason else "no reason is known"
        return f"{pair}: {row.outcome} ({nats}): {why} [{row.error}]"
    assert row.connect_ms is not None
    rtt = f", round trip {row.rtt_ms:.0f} ms" if row.rtt_ms is not None else ""
    return (
        f"{pair}: {row.outcome} by {row.plugin} over {row.transport} in {row.connect_ms:.0f} ms{rtt} ({nats}), "
        f"{row.local_endpoint} -> {row.remote_endpoint}"
    )
