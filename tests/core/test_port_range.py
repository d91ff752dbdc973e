"""The block that a NAT draws from, from the ports of a handful of mappings."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.port_range import WHOLE, PortRange, checked, learned, merged, suspected

SAMPLES = 17  # three mappings of one socket, six fresh sockets, and eight more


def drawn(rng: Random, block: PortRange, count: int = SAMPLES) -> list[int]:
    return rng.sample(range(block.first, block.last + 1), count)


@st.composite
def blocks(draw: st.DrawFn) -> PortRange:
    size = draw(st.integers(64, 16_384))
    first = draw(st.integers(WHOLE.first, WHOLE.last - size + 1))
    return PortRange(first, first + size - 1)


@given(blocks(), st.integers(), st.integers(9, 40))
def test_of_a_block_nothing_is_learned_that_it_has_not(block: PortRange, seed: int, count: int) -> None:
    ports = drawn(Random(seed), block, count)
    found = learned(ports)
    assert found == PortRange(min(ports), max(ports))
    assert block.first <= found.first <= found.last <= block.last
    assert suspected(ports)


@given(blocks())
def test_most_of_a_block_is_learned(block: PortRange) -> None:
    found = [learned(drawn(Random(seed), block)) for seed in range(200)]
    shares = sorted(one.size / block.size for one in found if one)
    assert len(shares) == 200
    assert shares[0] > 0.5
    assert shares[20] > 0.7
    assert shares[100] > 0.85


def test_what_is_spread_is_no_block() -> None:
    spread = [drawn(Random(seed), WHOLE, 9) for seed in range(5000)]
    assert sum(learned(ports) is not None for ports in spread) <= 15, "0.1 %"
    assert 350 <= sum(suspected(ports) for ports in spread) <= 650, "10 %"


@pytest.mark.parametrize("ports", [[], [40_000], [40_000, 40_001, 40_002], [40_000] * 9, [*range(1000, 1100, 10)]])
def test_what_says_nothing_is_no_block(ports: list[int]) -> None:
    assert learned(ports) is None


def test_of_a_block_that_is_known_in_part_the_ports_around_are_plausible() -> None:
    known = PortRange(40_100, 40_899)
    assert [port for port in (39_699, 39_700, 40_500, 41_299, 41_300) if known.may_reach(port)] == [
        39_700,
        40_500,
        41_299,
    ]


@pytest.mark.parametrize(
    ("known", "found", "both"),
    [
        (None, None, None),
        (None, (2000, 2999), (2000, 2999)),
        ((2000, 2999), None, None),
        ((2000, 2900), (2100, 2999), (2000, 2999)),
        ((2100, 2900), (2000, 2999), (2000, 2999)),
        ((2000, 2900), (2900, 2999), (2000, 2999)),
        ((2000, 2900), (2901, 3500), (2901, 3500)),
        ((5000, 5900), (2000, 2999), (2000, 2999)),
    ],
)
def test_looks_at_one_block_are_put_together(
    known: tuple[int, int] | None, found: tuple[int, int] | None, both: tuple[int, int] | None
) -> None:
    ranges = (PortRange(*ends) if ends else None for ends in (known, found, both))
    assert merged(next(ranges), next(ranges)) == next(ranges)


@pytest.mark.parametrize("ends", [(0, 65_535), (1023, 2000), (2000, 1999), (2000, 65_536)])
def test_what_is_no_range_is_refused(ends: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range"):
        checked(PortRange(*ends))
    assert checked(WHOLE) == WHOLE
