"""A fleet that takes the place of another one on real Ray: not while that is at work, and its port mappings are planned
with from the first connection on, and known again after actors were killed."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from warpfleet.cluster.control import ClusterBusy, ClusterClient, ConnectRequest, StatusRequest, SweepRequest
from warpfleet.cluster.progress import Progress
from warpfleet.cluster.status import ActorStatus, ClusterStatus
from warpfleet.cluster.sweep_plan import SweepPlan
from warpfleet.configs.fleet import Fleet
from warpfleet.configs.loader import load
from warpfleet.configs.topology import Topology
from warpfleet.core.combo import Policy
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairs import Trial
from warpfleet.core.plan import Pin
from warpfleet.lab.laboratory import laboratory
from warpfleet.telemetry.records import ConnectionRow

pytestmark = [pytest.mark.lab, pytest.mark.ray, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

MAPS = {"preset": "symmetric_random", "port_mapping": ["pcp", "natpmp", "upnp"]}
HOSTS = [{"name": "home", "nat": MAPS, "delay_ms": 20}, {"name": "away", "nat": "port_restricted", "delay_ms": 20}]


@pytest.fixture(scope="module")
def mapped_fleet() -> Iterator[Fleet]:
    """`home` stands behind a router that maps ports."""
    topology = Topology.model_validate({"version": 1, "name": "mapping", "hosts": HOSTS})
    with laboratory(topology, name="wftest-mapping") as lab:
        yield load(lab.fleet_path, Fleet)


async def dialled(cluster: ClusterClient, fleet: Fleet) -> Endpoint | None:
    """Where `away` reaches `home` by a plain connect, None where it does not."""
    trial, pin = Trial("away", "home", 0), Pin("direct_connect")
    row = await cluster.ask(ConnectRequest(fleet=fleet, trial=trial, policy=Policy.STAGGERED, pin=pin))
    assert isinstance(row, ConnectionRow)
    return Endpoint.parse(row.remote_endpoint) if row.remote_endpoint else None


async def actor(cluster: ClusterClient, role: str) -> ActorStatus:
    status = await cluster.ask(StatusRequest())
    assert isinstance(status, ClusterStatus)
    return next(actor for actor in status.actors if actor.role == role)


async def killed(cluster: ClusterClient, role: str) -> None:
    """Kill an actor, and return once it has been replaced."""
    before = await actor(cluster, role)
    assert before.pid
    os.kill(before.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while not ((now := await actor(cluster, role)).alive and now.restarts > before.restarts):
            pass


async def test_another_fleet_takes_the_place_of_one_that_nobody_works_with(
    cluster: ClusterClient, fleet: Fleet, mapped_fleet: Fleet, tmp_path: Path
) -> None:
    plan = SweepPlan(pairs="random:20", repeat=1, policy=Policy.STAGGERED, pin=Pin(), seed=1)
    request = SweepRequest(fleet=fleet, plan=plan, directory=tmp_path, resume=False, concurrency=6)
    at_work = asyncio.Event()
    sweeping = asyncio.create_task(
        cluster.ask(request, on_event=lambda event: at_work.set() if isinstance(event, Progress) else None)
    )
    async with asyncio.timeout(60):
        await at_work.wait()
    with pytest.raises(ClusterBusy):
        await dialled(cluster, mapped_fleet)
    assert await sweeping == 0, "no connection failed that should have worked"
    assert await dialled(cluster, mapped_fleet), "its first connection goes by a port mapping"


async def test_port_mappings_are_known_again_after_actors_died(cluster: ClusterClient, mapped_fleet: Fleet) -> None:
    first = await dialled(cluster, mapped_fleet)
    assert first
    await killed(cluster, "signal")
    assert await dialled(cluster, mapped_fleet) == first
    await killed(cluster, "direct_connect")
    async with asyncio.timeout(15):  # until the new listener is mapped, it is a long shot
        while (second := await dialled(cluster, mapped_fleet)) is None:
            pass
    assert second.ip == first.ip
    assert second.port != first.port
