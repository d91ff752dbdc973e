"""The names that people use for points in the space of RFC 4787."""

from dataclasses import replace

import pytest

from warpfleet.configs.topology import PRESETS
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment


@pytest.mark.parametrize("preset", [name for name, spec in PRESETS.items() if spec])
def test_each_preset_behaves_as_its_name_says(preset: str) -> None:
    spec = PRESETS[preset]
    assert spec is not None
    assert spec.behaviour.alias == preset


@pytest.mark.parametrize(
    ("behaviour", "alias"),
    [
        (NatBehaviour(), "unknown"),
        (NatBehaviour(translated=False), "unknown"),
        (NatBehaviour(translated=False, filtering=Filtering.EIF), "public"),
        (NatBehaviour(translated=False, filtering=Filtering.ADF), "public_firewalled"),
        (NatBehaviour(translated=True, mapping=Mapping.EIM), "cone"),
        (NatBehaviour(mapping=Mapping.EIM, filtering=Filtering.EIF), "full_cone"),
        (NatBehaviour(mapping=Mapping.ADM), "symmetric"),
        (NatBehaviour(mapping=Mapping.ADM, port_assignment=PortAssignment.RANDOM), "symmetric_random"),
        (NatBehaviour(mapping=Mapping.APDM, udp=False), "udp_blocked"),
        (NatBehaviour(udp=True, translated=True), "unknown"),
    ],
)
def test_the_alias_says_no_more_than_is_known(behaviour: NatBehaviour, alias: str) -> None:
    assert behaviour.alias == alias


@pytest.mark.parametrize(
    ("behaviour", "is_open"),
    [
        (NatBehaviour(translated=False, filtering=Filtering.EIF), True),
        (NatBehaviour(translated=None, filtering=Filtering.EIF), False),
        (NatBehaviour(translated=True, filtering=Filtering.EIF), False),
        (NatBehaviour(translated=False, filtering=Filtering.APDF), False),
        (NatBehaviour(translated=False), False),
    ],
)
def test_open_is_known_to_be_open(behaviour: NatBehaviour, is_open: bool) -> None:
    assert behaviour.open is is_open


def test_the_signature_leaves_out_what_no_technique_can_tell() -> None:
    one = NatBehaviour(mapping=Mapping.EIM, filtering=Filtering.ADF, translated=True, udp=True)
    other = replace(one, port_delta=2, hairpin=True, lifetime_s=30.0)
    assert one.signature == other.signature == "EIM/ADF/unknown/translated/udp"


@pytest.mark.parametrize(
    "change",
    [
        {"mapping": Mapping.APDM},
        {"filtering": Filtering.EIF},
        {"port_assignment": PortAssignment.RANDOM},
        {"translated": True},
        {"translated": None},
        {"udp": False},
    ],
)
def test_the_signature_tells_apart_what_decides(change: dict[str, object]) -> None:
    open_ = NatBehaviour(mapping=Mapping.EIM, filtering=Filtering.ADF, translated=False, udp=True)
    assert replace(open_, **change).signature != open_.signature  # type: ignore[arg-type]


def test_a_behaviour_is_complete_when_nothing_that_decides_is_unknown() -> None:
    known = {
        "mapping": Mapping.EIM,
        "filtering": Filtering.APDF,
        "port_assignment": PortAssignment.PRESERVING,
    }
    assert NatBehaviour(**known).complete
    for key in known:
        assert not NatBehaviour(**{name: value for name, value in known.items() if name != key}, udp=True).complete
    assert NatBehaviour(udp=False).complete
