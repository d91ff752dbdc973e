"""The block of ports that a NAT draws from, as far as its mappings show it.

A carrier gives each of its customers a block, often of some thousand ports (RFC 6888 section 4, RFC 7422). Whoever
guesses ports need not know where it ends: within it, one guess is as good as another.
"""

from collections.abc import Iterable
from typing import NamedTuple

# Fewer ports say nothing: that two of them are near each other, chance explains.
_MIN_PORTS = 4
# So seldom are ports that were drawn from the whole range taken for a block's.
_CHANCE = 0.001
# One NAT in ten without a block is asked for a few more ports in vain.
_SUSPICIOUS = 0.1


class PortRange(NamedTuple):
    """Ports, from the first to the last."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first + 1

    def may_reach(self, port: int) -> bool:
        """Whether the block may have this port, of which the range is what was seen: half as much more either way."""
        margin = self.size // 2
        return self.first - margin <= port <= self.last + margin

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


WHOLE = PortRange(1024, 65_535)
"""RFC 4787 section 4.2.1: allocators stay out of the well-known ports."""


def checked(ports: PortRange) -> PortRange:
    """The same; ValueError where it is no range of ports that an allocator draws from."""
    if not WHOLE.first <= ports.first <= ports.last <= WHOLE.last:
        raise ValueError(f"{ports} is no range within {WHOLE}")
    return ports


def learned(ports: Iterable[int]) -> PortRange | None:
    """The smallest range that has all these ports, which were drawn at random. None where it is not known to be a
    block: they lie so far apart as ports of the whole range do more often than once in a thousand times.

    Of n ports of a block, the range has four fifths of the block on average for n = 9, nine tenths for n = 18.
    """
    drawn = set(ports)
    if len(drawn) < _MIN_PORTS:
        return None
    found = PortRange(min(drawn), max(drawn))
    return found if found.first >= WHOLE.first and _by_chance(len(drawn), found.size) < _CHANCE else None


def suspected(ports: Iterable[int]) -> bool:
    """Whether a few more ports might show a block: these lie nearer together than most of the whole range do."""
    drawn = set(ports)
    return len(drawn) >= _MIN_PORTS and _by_chance(len(drawn), max(drawn) - min(drawn) + 1) < _SUSPICIOUS


def merged(known: PortRange | None, found: PortRange | None) -> PortRange | None:
    """Both, where they overlap: they show one block. Else what was found last: it may be another customer's."""
    if known is None or found is None or known.last < found.first or found.last < known.first:
        return found
    return PortRange(min(known.first, found.first), max(known.last, found.last))


def _by_chance(count: int, size: int) -> float:
    """How likely it is that so many ports of the whole range lie within `size` neighbouring ones."""
    share = min(1.0, size / WHOLE.size)
    return count * share ** (count - 1) - (count - 1) * share**count
