"""The fleet of the running cluster, for commands that serve nodes of it themselves."""

import asyncio
from pathlib import Path

import pytest

from warpfleet.cluster.control import FleetRequest, Request, Tell, control_socket
from warpfleet.cluster.running import as_running, control_path
from warpfleet.cluster.session import served_fleet
from warpfleet.configs.fleet import Fleet
from warpfleet.core.errors import InputError

FLEET = Fleet.model_validate(
    {"version": 1, "name": "pair", "nodes": [{"name": "alice", "listen": [443, 0]}, {"name": "bob"}]}
)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


async def fleet_of(folder: Path, served: Fleet | None) -> Fleet:
    async def answer(request: Request, _stopping: asyncio.Event, _tell: Tell) -> object:
        assert request == FleetRequest()
        return served

    with as_running(folder) as ready:
        async with control_socket(control_path(folder), answer), asyncio.timeout(10):
            ready()
            return await served_fleet(print)


async def test_its_nodes_leave_the_cluster_its_ports(tmp_path: Path) -> None:
    found = await fleet_of(tmp_path, FLEET)
    assert [(node.name, node.listen) for node in found.nodes] == [("alice", (0,)), ("bob", (0,))]


async def test_without_a_fleet_or_a_cluster_one_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a fleet file"):
        await fleet_of(tmp_path, None)
    with pytest.raises(InputError, match="give a fleet file"):
        await served_fleet(print)
