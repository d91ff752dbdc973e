"""A fleet on a Ray of its own, for one command."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from warpfleet.cluster.fleet_runtime import FleetRuntime, fleet_runtime
from warpfleet.cluster.preflight import check_services, check_stun
from warpfleet.cluster.ray_session import ray_session
from warpfleet.configs.fleet import Fleet


@asynccontextmanager
async def fleet_session(fleet: Fleet, say: Callable[[str], None]) -> AsyncIterator[FleetRuntime]:
    """Ray and the fleet's nodes are up until the block ends. MissingError names what is not there."""
    await check_services(fleet)
    say(f"starting Ray and {len(fleet.nodes)} nodes")
    async with ray_session() as folder, fleet_runtime(fleet, folder) as runtime:
        check_stun(fleet, runtime.reports)
        yield runtime
