"""What a peer may have dialled: exactly what is written, and nothing that merely leads there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.forward import Destination, Forwarding, Permission, canonical_host

labels = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
addresses = st.sampled_from(["127.0.0.1", "10.0.0.5", "192.0.2.7", "::1", "2001:db8::7", "fd00::1"])
hosts = st.one_of(names, addresses)
ports = st.integers(1, 65_535)
destinations = st.builds(Destination, hosts, ports)


@given(destinations)
def test_a_destination_is_read_as_it_is_written(destination: Destination) -> None:
    assert Destination.parse(str(destination)) == destination


@given(destinations, st.booleans())
def test_a_permission_is_read_as_it_is_written(destination: Destination, any_port: bool) -> None:
    permission = Permission(destination.host, None if any_port else destination.port)
    assert Permission.parse(str(permission)) == permission


@given(destinations, destinations)
def test_a_permission_for_one_port_covers_that_destination_alone(one: Destination, other: Destination) -> None:
    assert Permission.parse(str(one)).covers(other) == (one == other)


@given(destinations, destinations)
def test_a_permission_for_every_port_covers_that_host_alone(one: Destination, other: Destination) -> None:
    assert Permission(one.host, None).covers(other) == (one.host == other.host)


@given(st.text(max_size=40))
def test_whatever_text_is_read_is_canonical_or_refused(text: str) -> None:
    for parse in (Destination.parse, Permission.parse):
        try:
            read = parse(text)
        except ValueError:
            continue
        assert canonical_host(read.host) == read.host
        assert parse(str(read)) == read


@pytest.mark.parametrize(
    ("permission", "asked", "covered"),
    [
        ("127.0.0.1:22", "127.0.0.1:22", True),
        ("127.0.0.1:22", "127.0.0.1:23", False),
        ("127.0.0.1:22", "127.0.0.2:22", False),
        ("127.0.0.1:22", "localhost:22", False),
        ("localhost:22", "127.0.0.1:22", False),
        ("10.0.0.5:*", "10.0.0.5:65535", True),
        ("10.0.0.5:*", "10.0.0.50:80", False),
        ("DB.Example.net.:5432", "db.example.net:5432", True),
        ("example.net:*", "db.example.net:5432", False),
        ("[::1]:80", "[0:0:0:0:0:0:0:1]:80", True),
    ],
)
def test_what_is_covered(permission: str, asked: str, covered: bool) -> None:
    assert Permission.parse(permission).covers(Destination.parse(asked)) is covered


@pytest.mark.parametrize(
    "text",
    [
        *("", "22", ":22", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1"),
        *("127.0.0.1:22:23", "::1:22", "[::1]", "[::1:22", "a b:22", "-a:22", "a..b:22", "*:22", "ho\nst:22"),
        *("127.1:22", "0x7f.1:22", "2130706433:22", "0177.0.0.1:22"),  # which resolvers take for 127.0.0.1
        *("0.0.0.0:22", "[::]:22", "[::ffff:127.0.0.1]:22", "224.0.0.1:22", "255.255.255.255:22"),
        *("127.0.0.1:²", "127.0.0.1:+22", "a" * 64 + ":22", ".".join(["a" * 60] * 5) + ":22"),
    ],
)
def test_what_cannot_be_dialled_is_refused(text: str) -> None:
    for parse in (Destination.parse, Permission.parse):
        with pytest.raises(ValueError, match=r"write it like|port must be|neither an IP|no host has"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "bind", "port", "destination"),
    [
        ("8080:127.0.0.1:80", "127.0.0.1", 8080, "127.0.0.1:80"),
        ("0:db.example.net:5432", "127.0.0.1", 0, "db.example.net:5432"),
        ("0.0.0.0:8080:10.0.0.5:80", "0.0.0.0", 8080, "10.0.0.5:80"),
        ("localhost:8080:[2001:db8::7]:80", "localhost", 8080, "[2001:db8::7]:80"),
        ("[::1]:8080:[::1]:80", "::1", 8080, "[::1]:80"),
    ],
)
def test_a_forwarding_is_written_as_for_ssh(text: str, bind: str, port: int, destination: str) -> None:
    assert Forwarding.parse(text) == Forwarding(bind, port, Destination.parse(destination))


@pytest.mark.parametrize(
    "text", ["", "8080", "8080:127.0.0.1", "127.0.0.1:80", "70000:127.0.0.1:80", "8080:a:0", "1:2:3"]
)
def test_what_is_no_forwarding_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like|port must be|neither an IP"):
        Forwarding.parse(text)
