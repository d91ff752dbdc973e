"""Transport addresses as text, and the scopes of addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.endpoint import Endpoint, Scope, scope_of

addresses = st.ip_addresses().map(str)


@given(ip=addresses, port=st.integers(0, 65535))
def test_text_and_back(ip: str, port: int) -> None:
    assert Endpoint.parse(str(Endpoint(ip, port))) == (ip, port)


@pytest.mark.parametrize(
    ("text", "endpoint", "af"),
    [
        ("192.0.2.7:3478", Endpoint("192.0.2.7", 3478), 4),
        ("[2001:db8::7]:3478", Endpoint("2001:db8::7", 3478), 6),
        ("[2001:DB8:0::7]:1", Endpoint("2001:db8::7", 1), 6),
    ],
)
def test_parse_gives_the_canonical_form(text: str, endpoint: Endpoint, af: int) -> None:
    parsed = Endpoint.parse(text)
    assert (parsed, parsed.af) == (endpoint, af)


@pytest.mark.parametrize(
    "text",
    ["192.0.2.7", "example.net:1", "192.0.2.7:http", "300.0.2.7:1", "", ":1", "[fe80::1%eth0]:1", "[2001:db8::1%7]:1"],
)
def test_parse_refuses_what_is_no_transport_address(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the message is the standard library's
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("ip", "scope"),
    [
        ("203.0.113.1", Scope.GLOBAL),
        ("198.18.0.1", Scope.GLOBAL),
        ("8.8.8.8", Scope.GLOBAL),
        ("2001:db8::1", Scope.GLOBAL),
        ("10.1.2.3", Scope.PRIVATE),
        ("172.31.0.1", Scope.PRIVATE),
        ("172.32.0.1", Scope.GLOBAL),
        ("192.168.0.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("169.254.1.1", Scope.LINK_LOCAL),
        ("fe80::1", Scope.LINK_LOCAL),
        ("2001:db8::1%7", Scope.LINK_LOCAL),
        ("127.0.0.2", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("0.0.0.0", Scope.UNUSABLE),
        ("::", Scope.UNUSABLE),
        ("224.0.0.1", Scope.UNUSABLE),
        ("ff02::1", Scope.UNUSABLE),
        ("255.255.255.255", Scope.UNUSABLE),
        ("::ffff:10.0.0.1", Scope.UNUSABLE),
    ],
)
def test_scope(ip: str, scope: Scope) -> None:
    assert scope_of(ip) is scope


@given(addresses)
def test_every_address_has_a_scope(ip: str) -> None:
    assert scope_of(ip) in Scope


@given(st.ip_addresses(v=4).map(str))
def test_an_ipv4_mapped_address_never_hides_what_it_reaches(ip: str) -> None:
    assert scope_of(f"::ffff:{ip}") in (Scope.UNUSABLE, Scope.LOOPBACK)
