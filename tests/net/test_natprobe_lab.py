"""The probe inside the laboratory: every preset's NAT, on the kernel, is recognised."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from warpfleet.configs.fleet import Fleet
from warpfleet.configs.topology import find_topology
from warpfleet.core.nat import NatBehaviour
from warpfleet.lab.laboratory import laboratory
from warpfleet.net.natprobe import probe
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage

pytestmark = pytest.mark.lab

REPEATS = 3
PRESETS = [
    "public",
    "public_firewalled",
    "full_cone",
    "addr_restricted",
    "port_restricted",
    "eim_random_ports",
    "symmetric_sequential",
    "symmetric_random",
    "udp_blocked",
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One host behind each preset, named after it."""
    with laboratory(find_topology("default"), name="natprobe") as lab:
        yield Fleet.model_validate(yaml.safe_load(Path(lab.fleet_path).read_text(encoding="utf-8")))


async def behaviour_of(fleet: Fleet, name: str) -> NatBehaviour:
    vantage = fleet.node(name).vantage
    assert vantage is not None
    network = KernelNetwork(Vantage(netns=vantage.netns), stun_servers=fleet.services.stun)
    return (await probe(network, fleet.services.stun, af=4)).behaviour


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_preset_is_recognised(fleet: Fleet, preset: str) -> None:
    assert [(await behaviour_of(fleet, preset)).alias for _ in range(REPEATS)] == [preset] * REPEATS


async def test_all_at_once_they_are_recognised_too(fleet: Fleet) -> None:
    behaviours = await asyncio.gather(*(behaviour_of(fleet, preset) for preset in PRESETS))
    assert [behaviour.alias for behaviour in behaviours] == PRESETS


async def test_the_step_of_a_sequential_allocator_is_found(fleet: Fleet) -> None:
    assert (await behaviour_of(fleet, "symmetric_sequential")).port_delta == 1
