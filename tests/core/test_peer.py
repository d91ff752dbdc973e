"""What one end of a pair shows of itself, and when two ends share a network."""

from dataclasses import replace

import pytest

from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.nat import Filtering, NatBehaviour
from warpfleet.core.peer import PeerView, same_network, shared_subnet


def host(*addresses: str, external: str | None = None, external6: str | None = None) -> PeerView:
    """A host with these `ip/prefix` addresses."""
    pairs = [address.split("/") for address in addresses]
    found = {4: external, 6: external6}
    return PeerView(
        name="host",
        machine="m",
        interfaces=tuple(Interface("eth0", ip, int(length)) for ip, length in pairs),
        external={af: ip for af, ip in found.items() if ip},
    )


def test_addresses_that_lead_nowhere_are_left_out() -> None:
    view = host("127.0.0.1/8", "10.0.0.1/8", "203.0.113.1/24", "169.254.3.4/16", "::1/128", "fe80::1/64", "fd00::1/64")
    assert [i.ip for i in view.addresses(4)] == ["10.0.0.1", "203.0.113.1"]
    assert [i.ip for i in view.addresses(6)] == ["fd00::1"]


def test_ports_are_sorted_and_leave_out_loopback_listeners_and_the_other_family() -> None:
    listeners = (("0.0.0.0", 40000), ("192.0.2.1", 443), ("0.0.0.0", 443), ("127.9.9.9", 1), ("::", 8443))
    view = PeerView(name="h", machine="m", listeners=tuple(Endpoint(*pair) for pair in listeners))
    assert view.ports(4) == (443, 40000)
    assert view.ports(6) == (8443,)


def test_a_standing_socket_is_at_the_external_address_of_its_family_or_nowhere() -> None:
    standing = {"udp_punch": {4: 4000, 6: 6000}, "random_probe": {4: 5000}}
    view = replace(host("192.168.1.2/24", external="203.0.113.7"), standing=standing)
    assert view.standing_endpoint("udp_punch", 4) == Endpoint("203.0.113.7", 4000)
    assert view.standing_endpoint("random_probe", 4) == Endpoint("203.0.113.7", 5000)
    assert view.standing_endpoint("udp_punch", 6) is view.standing_endpoint("random_probe", 6) is None
    assert host("192.168.1.2/24", external="203.0.113.7").standing_endpoint("udp_punch", 4) is None


def test_a_mapping_leads_to_the_node_itself_or_nowhere() -> None:
    view = host("192.168.1.2/24", "2001:db8:1::2/64", "fe80::1/64", external="203.0.113.7", external6="2001:db8:9::9")
    own = (Endpoint("203.0.113.7", 1), Endpoint("2001:db8:1::2", 2), Endpoint("2001:db8:9::9", 3))
    others = (
        Endpoint("203.0.113.8", 1),
        Endpoint("192.168.1.2", 1),
        Endpoint("2001:db8:1::3", 2),
        Endpoint("fe80::1", 3),
    )
    claimed = view.with_mapped((*others, *own))
    assert claimed.mapped == own
    assert claimed.mappings(4) == own[:1]
    assert claimed.mappings(6) == own[1:]
    assert claimed.with_mapped(()) == view


@pytest.mark.parametrize(
    ("udp", "blocked"),
    [({}, False), ({4: False}, True), ({4: False, 6: True}, False), ({4: False, 6: False}, True), ({4: None}, False)],
)
def test_udp_is_blocked_where_no_family_gets_it_out(udp: dict[int, bool | None], blocked: bool) -> None:
    view = PeerView(name="h", machine="m", nat={af: NatBehaviour(udp=value) for af, value in udp.items()})
    assert view.udp_blocked is blocked


def test_a_behaviour_that_nobody_observed_is_all_unknown() -> None:
    assert PeerView(name="h", machine="m").behaviour(6).filtering is Filtering.UNKNOWN


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        (host("192.168.1.2/24", external="198.51.100.1"), host("192.168.1.3/24", external="198.51.100.1"), True),
        (host("192.168.1.2/24", external="198.51.100.1"), host("192.168.1.3/24", external="198.51.100.2"), False),
        (host("192.168.1.2/24", external="198.51.100.1"), host("192.168.2.3/24", external="198.51.100.1"), False),
        (host("203.0.113.2/24", external="203.0.113.2"), host("203.0.113.3/24", external="203.0.113.3"), True),
        (host("203.0.113.2/25", external="203.0.113.2"), host("203.0.113.200/25", external="203.0.113.200"), False),
        (host("192.168.1.2/24"), host("192.168.1.3/24"), True),
        (host(), host(), False),
        (host("192.168.1.2/24", external="198.51.100.1"), host("fd00::1/64", external="198.51.100.1"), False),
    ],
)
def test_one_network_is_one_subnet_behind_one_external_address(mine: PeerView, theirs: PeerView, same: bool) -> None:
    assert same_network(mine, theirs, 4) is same


def test_each_family_has_its_own_subnets() -> None:
    mine = host("192.168.1.2/24", "2001:db8::2/64", external="198.51.100.1", external6="2001:db8::2")
    theirs = host("192.168.1.3/24", "2001:db8::3/64", external="198.51.100.2", external6="2001:db8::3")
    assert same_network(mine, theirs, 6)
    assert not same_network(mine, theirs, 4)


def test_our_prefix_decides_which_of_their_addresses_lie_beside_us() -> None:
    mine = host("10.0.0.2/30", "192.168.7.2/24")
    theirs = host("10.0.0.9/8", "192.168.7.9/24", "172.17.0.1/16")
    assert [i.ip for i in shared_subnet(mine, theirs, 4)] == ["192.168.7.9"]
