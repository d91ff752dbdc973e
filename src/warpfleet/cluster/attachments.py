"""Programs that are attached to nodes of the cluster: where their pipes go, and what connections they ask for."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from warpfleet.actors.lander import landing_path
from warpfleet.actors.values import ConnectionRequest, NodeSpec
from warpfleet.cluster.control import Attached, AttachRequest, CancelRequest, LinkRequest, Tell
from warpfleet.cluster.supervisor import COORDINATOR, ClusterLost, Supervisor
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import ConnectionOutcome, Reason
from warpfleet.core.errors import InputError, MissingError
from warpfleet.telemetry.records import ConnectionRow

_POLL_S = 10.0  # how long one question for a row waits; then it is asked again


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program and its node, which is its alone from `Attachments.attach` until the end of `last`."""

    supervisor: Supervisor
    spec: NodeSpec
    landing: Path
    others: "dict[str, Attachment]"

    async def last(self, stopping: asyncio.Event, tell: Tell) -> None:
        """Return when the program ends it, or is gone. The node's pipes go to the socket that it is told to open; where
        it has died, nobody listens there, and the node is served as before. MissingError where the actors are gone."""
        supervisor, spec = self.supervisor, self.spec
        try:
            self.landing.unlink(missing_ok=True)
            view = next(report.view for report in supervisor.reports if report.name == spec.name)
            peers = frozenset(other.name for other in supervisor.specs if other.name != spec.name)
            tell(Attached(spec.identity, view, peers, self.landing, spec.realm))
            await _first(stopping, supervisor.lost)
            if supervisor.lost.done():
                raise ClusterLost(supervisor.lost.result())
        finally:
            self.landing.unlink(missing_ok=True)
            del self.others[spec.name]


class Attachments:
    """Who is attached to which node. `folder` is the daemon's, which is the user's alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: dict[str, Attachment] = {}

    def attach(self, request: AttachRequest, serving: tuple[Supervisor, Fleet] | None) -> Attachment:
        """Give a node to a program, of the fleet that is being served. MissingError where that is another one,
        InputError where it has no such node, or a program has it already."""
        supervisor, fleet = serving or (None, None)
        if supervisor is None or fleet is None or supervisor.lost.done() or request.fleet not in (None, fleet):
            wanted = f"fleet {request.fleet.name}" if request.fleet else "a fleet"
            serves = f"it serves fleet {fleet.name}" if fleet else "it serves none"
            raise MissingError(
                f"the cluster does not serve {wanted} as it is, {serves}: warpfleet cluster launch CONFIG"
            )
        name = fleet.node(request.node).name
        if name in self._nodes:
            raise InputError(f"another program is attached to node {name}; one at a time may be")
        spec = next(spec for spec in supervisor.specs if spec.name == name)
        landing = landing_path(self._folder, spec.identity.public)
        self._nodes[name] = Attachment(supervisor, spec, landing, self._nodes)
        return self._nodes[name]

    async def link(self, request: LinkRequest | CancelRequest, stopping: asyncio.Event) -> ConnectionRow | None:
        """Connect a node that a program is attached to, or cancel that: the connection's row. InputError where none
        is attached, ClusterLost where the actors are gone."""
        node = request.connection.initiator if isinstance(request, LinkRequest) else request.node
        if node not in self._nodes:
            raise InputError(f"no program is attached to node {node}")
        supervisor = self._nodes[node].supervisor
        if isinstance(request, LinkRequest):
            return await _walked(supervisor, request.connection, stopping)
        with suppress(RayError):  # a coordinator that has died has no connections
            await supervisor.ask(COORDINATOR, "cancel", request.connection_id, request.reason)
        return None


async def _walked(supervisor: Supervisor, request: ConnectionRequest, stopping: asyncio.Event) -> ConnectionRow:
    """The row of a connection, which is cancelled once `stopping` is set. A coordinator that dies takes it along."""
    request = replace(request, sweep_id=request.connection_id)  # so that its row comes apart from others
    finished = "finished", request.sweep_id, _POLL_S
    cancelled = False
    try:
        await supervisor.ask(COORDINATOR, "connect", [request])
        while True:
            asking = asyncio.ensure_future(supervisor.ask(COORDINATOR, *finished))
            await _first(stopping, supervisor.lost, asking) if not cancelled else await asyncio.wait({asking})
            if stopping.is_set() and not cancelled:
                cancelled = True
                await supervisor.ask(COORDINATOR, "cancel", request.connection_id, Reason.STOPPED)
            if supervisor.lost.done():
                asking.cancel()
                raise ClusterLost(supervisor.lost.result())
            rows = await asking
            assert isinstance(rows, list)
            if rows:
                row: ConnectionRow = rows[0]
                return row
    except RayError:
        return _died(request)


async def _first(stopping: asyncio.Event, *futures: "asyncio.Future[Any]") -> None:
    """Return once one of them is there."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        waiting: set[asyncio.Future[Any]] = {stop, *futures}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()


def _died(request: ConnectionRequest) -> ConnectionRow:
    return ConnectionRow(
        sweep_id=request.sweep_id,
        connection_id=request.connection_id,
        initiator=request.initiator,
        responder=request.responder,
        repeat=request.repeat,
        policy=request.policy,
        started_at=datetime.now(UTC),
        outcome=ConnectionOutcome.ERROR,
        error="the coordinator died",
        reason=Reason.ACTOR_DIED,
    )
