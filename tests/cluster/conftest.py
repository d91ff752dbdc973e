"""One cluster and one fleet, over the nine presets, for all tests of the cluster."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from warpfleet.cluster.control import ClusterClient
from warpfleet.cluster.session import own_cluster
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


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The observatory of these tests starts empty, and a cluster that the user runs is not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(fleet: Fleet, state_folder: None) -> AsyncIterator[ClusterClient]:
    """A cluster that serves it."""
    async with own_cluster(fleet, print) as client:
        yield client
