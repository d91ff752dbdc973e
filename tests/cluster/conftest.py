"""One Ray and one fleet, over the nine presets, for all tests of the cluster."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from warpfleet.cluster.fleet_runtime import FleetRuntime
from warpfleet.cluster.session import fleet_session
from warpfleet.configs.fleet import Fleet
from warpfleet.configs.loader import load
from warpfleet.configs.topology import find_topology
from warpfleet.lab.laboratory import Lab, laboratory


@pytest.fixture(scope="session")
def nine_nats() -> Iterator[Lab]:
    """The default laboratory."""
    with laboratory(find_topology("default"), name="wftest-cluster") as lab:
        yield lab


@pytest.fixture(scope="session")
def fleet(nine_nats: Lab) -> Fleet:
    """Its fleet file."""
    return load(nine_nats.fleet_path, Fleet)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def runtime(fleet: Fleet) -> AsyncIterator[FleetRuntime]:
    """Its nodes, open on Ray."""
    async with fleet_session(fleet, print) as running:
        yield running
