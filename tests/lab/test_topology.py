"""The topology model, and the names that expand into points of RFC 4787's space."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from warpfleet.configs.line import LineQuality
from warpfleet.configs.topology import PRESETS, Ipv6, NatSpec, Topology, find_topology
from warpfleet.core.errors import InputError
from warpfleet.core.nat import Filtering, Mapping, PortAssignment


def topology(**parts: Any) -> Topology:
    return Topology.model_validate({"version": 1, "name": "t", "hosts": [{"name": "a"}], **parts})


@pytest.mark.parametrize("name", [name for name, nat in PRESETS.items() if nat])
def test_a_preset_is_called_by_its_own_alias(name: str) -> None:
    nat = PRESETS[name]
    assert nat is not None
    assert nat.behaviour.alias == name


def test_presets_expand_into_knobs() -> None:
    nat = NatSpec(mapping=Mapping.APDM, filtering=Filtering.APDF, port_assignment=PortAssignment.RANDOM)
    assert topology(hosts=[{"name": "a", "nat": "symmetric_random"}]).hosts[0].nat == nat


def test_a_knob_may_be_turned_on_top_of_a_preset() -> None:
    made = topology(hosts=[{"name": "a", "nat": {"preset": "full_cone", "hairpinning": True}}]).hosts[0].nat
    assert made == NatSpec(filtering=Filtering.EIF, hairpinning=True)


def test_public_is_no_router() -> None:
    made = topology(hosts=[{"name": "a", "nat": "public"}, {"name": "b"}])
    assert [host.public for host in made.hosts] == [True, True]
    assert made.all_routers() == ()


def test_a_host_with_nat_has_a_router_of_its_own_with_its_line() -> None:
    line = {"delay_ms": 20, "jitter_ms": 5, "loss": 0.1}
    made = topology(hosts=[{"name": "a", "nat": "full_cone", "ipv6": "open", **line}])
    (router,) = made.all_routers()
    assert (router.name, router.quality, router.ipv6) == ("a.router", LineQuality(**line), Ipv6.OPEN)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hosts": [{"name": "a", "nat": "fullcone"}]}, "no NAT preset 'fullcone'"),
    ({"hosts": [{"name": "a"}, {"name": "a"}]}, "'a' is taken"),
    ({"hosts": [{"name": "core"}]}, "'core' is taken"),
    ({"hosts": [{"name": "a", "behind": "b"}]}, "no router 'b'"),
    ({"hosts": [{"name": "a", "nat": {"mapping": "APDM"}}]}, "with preserved ports would be EIM"),
    ({"hosts": [{"name": "a", "nat": {"port_delta": 0}}]}, "port_delta must not be 0"),
    ({"hosts": [{"name": "a", "nat": {"port_range": [40_000, 40_062]}}]}, "must have 64 ports or more"),
    ({"hosts": [{"name": "a", "nat": {"port_range": [1000, 2023]}}]}, "no range within 1024-65535"),
    ({"hosts": [{"name": "a", "nat": {"port_range": [41_023, 40_000]}}]}, "no range within 1024-65535"),
    ({"hosts": [{"name": "a", "nat": {"mapping": "unknown"}}]}, "must be known"),
    ({"hosts": [{"name": "a", "ipv6": "firewalled"}]}, "a public host has no firewall"),
    ({"hosts": [{"name": "a.b"}]}, "match pattern"),
    ({"hosts": []}, "the list is empty"),
    ({"hosts": [{"name": "a", "nat": {"preset": "public", "hairpinning": True}}]}, "it has no knobs"),
    ({"routers": [{"name": "r", "nat": "public"}]}, "valid dictionary"),
    ({"routers": [{"name": "r", "nat": "full_cone", "behind": "r"}]}, "stands behind itself"),
    (
        {
            "routers": [
                {"name": "r", "nat": "full_cone"},
                {"name": "s", "nat": "public_firewalled", "behind": "r"},
            ]
        },
        "must stand on the internet itself",
    ),
    (
        {
            "routers": [
                {"name": "r", "nat": "public_firewalled"},
                {"name": "s", "nat": "full_cone", "behind": "r"},
            ]
        },
        "only hosts may stand behind it",
    ),
    (
        {
            "routers": [
                {"name": "r", "nat": "full_cone"},
                {"name": "s", "nat": "full_cone", "behind": "r", "ipv6": "open"},
            ]
        },
        "in front of it has none",
    ),
    (
        {"routers": [{"name": "r", "nat": "full_cone"}], "hosts": [{"name": "a", "behind": "r", "nat": "full_cone"}]},
        "either `nat`",
    ),
    (
        {"routers": [{"name": "r", "nat": "full_cone"}], "hosts": [{"name": "a", "behind": "r", "ipv6": "open"}]},
        "router's to say",
    ),
    (
        {"hosts": [{"name": "a", "nat": {"preset": "public_firewalled", "port_mapping": ["pcp"]}}]},
        "port_mapping needs a router that translates",
    ),
    ({"hosts": [{"name": "a"}, {"name": "b", "beside": "c"}]}, "no host 'c' with a machine of its own"),
    ({"hosts": [{"name": "a"}, {"name": "b", "beside": "a"}, {"name": "c", "beside": "b"}]}, "no host 'b' with"),
    ({"hosts": [{"name": "a"}, {"name": "b", "beside": "a", "delay_ms": 1}]}, "has that one's place"),
    ({"hosts": [{"name": "broker"}]}, "'broker' is taken"),
    ({"hosts": [{"name": "a", "loss": 1}]}, "less than 1"),
]


@pytest.mark.parametrize(("parts", "complaint"), WRONG, ids=[complaint for _, complaint in WRONG])
def test_what_contradicts_itself_is_refused(parts: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        topology(**parts)


def test_shipped_default_has_every_preset_once() -> None:
    shipped = find_topology("default")
    assert [host.name for host in shipped.hosts] == list(PRESETS)
    assert [host.nat for host in shipped.hosts] == list(PRESETS.values())
    assert {host.delay_ms for host in shipped.hosts} == {20}


def test_every_content_has_a_realm_of_its_own() -> None:
    one, edited = topology(), topology(hosts=[{"name": "a", "delay_ms": 1}])
    assert one.realm == topology().realm != edited.realm
    assert re.fullmatch(r"lab-[0-9a-f]{12}", one.realm)


@pytest.mark.parametrize("name", ["home", "office", "cgn", "dual-stack", "everything", "matrix"])
def test_shipped_topologies_are_valid(name: str) -> None:
    assert find_topology(name).name == name


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(
        InputError, match=r"no topology 'nowhere'.*cgn, default, dual-stack, everything, home, matrix, office"
    ):
        find_topology("nowhere")


def test_a_wrong_key_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("version: 1\nname: t\nhosts:\n  - name: a\n    dealy_ms: 3\n")
    with pytest.raises(InputError, match=r"t\.yaml.*5.*dealy_ms.*delay_ms"):
        find_topology(str(path))
