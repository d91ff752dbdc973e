"""The probe inside the laboratory: every preset's NAT, on the kernel, is recognised."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from warpfleet.configs.fleet import Fleet
from warpfleet.configs.topology import find_topology
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.nat import NatBehaviour, NatSource
from warpfleet.lab.laboratory import laboratory
from warpfleet.net import natprobe, stun
from warpfleet.net.natprobe import NatReport, probe
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


async def report_of(fleet: Fleet, name: str, known: NatBehaviour | None = None) -> NatReport:
    """What a probe finds at this host, to which `known` is what a memory says."""
    vantage = fleet.node(name).vantage
    assert vantage is not None
    network = KernelNetwork(Vantage(netns=vantage.netns), stun_servers=fleet.services.stun)

    async def recall(external_ip: str) -> KnownNat | None:
        return KnownNat(Exit.of("test", external_ip), known, 0.0) if known else None

    return await probe(network, fleet.services.stun, af=4, recall=recall)


async def behaviour_of(fleet: Fleet, name: str) -> NatBehaviour:
    return (await report_of(fleet, name)).behaviour


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_preset_is_recognised(fleet: Fleet, preset: str) -> None:
    assert [(await behaviour_of(fleet, preset)).alias for _ in range(REPEATS)] == [preset] * REPEATS


async def test_all_at_once_they_are_recognised_too(fleet: Fleet) -> None:
    behaviours = await asyncio.gather(*(behaviour_of(fleet, preset) for preset in PRESETS))
    assert [behaviour.alias for behaviour in behaviours] == PRESETS


async def test_the_step_of_a_sequential_allocator_is_found(fleet: Fleet) -> None:
    assert (await behaviour_of(fleet, "symmetric_sequential")).port_delta == 1


@pytest.mark.parametrize("preset", PRESETS)
async def test_what_is_known_is_confirmed_with_few_packets(
    fleet: Fleet, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if preset != "udp_blocked":  # a machine that is busy for a moment would send one again, or too late
        monkeypatch.setattr(stun, "FIRST_RTO_S", 60)
        monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 10)
        monkeypatch.setattr(natprobe, "TCP_STAGGER_S", 10)
        monkeypatch.setattr(natprobe, "MIN_GRACE_S", 0.5)
    known = await behaviour_of(fleet, preset)
    assert known.alias == preset
    reports = [await report_of(fleet, preset, known) for _ in range(REPEATS)]
    assert [report.behaviour.alias for report in reports] == [preset] * REPEATS
    confirmed = [report for report in reports if report.source is NatSource.OBSERVATORY]
    assert len(confirmed) >= REPEATS - 1, "two random ports may lie as near each other as steps of a sequence do"
    assert {report.behaviour for report in confirmed} == {known}
    most = 16 if preset == "udp_blocked" else 4
    assert all(0 < (report.packets_sent or 0) <= most for report in confirmed)


@pytest.mark.parametrize("preset", PRESETS)
async def test_what_is_known_of_any_other_nat_is_not_believed(fleet: Fleet, preset: str) -> None:
    others = await asyncio.gather(*(behaviour_of(fleet, other) for other in PRESETS if other != preset))
    reports = await asyncio.gather(*(report_of(fleet, preset, other) for other in others))
    assert {report.behaviour.alias for report in reports} == {preset}
