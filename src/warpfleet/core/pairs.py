"""Which ordered pairs a sweep tries, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warpfleet.core.errors import InputError

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True, order=True)
class Trial:
    """One connection to make: an ordered pair, and which repetition of it (from 0)."""

    initiator: str
    responder: str
    repeat: int


def choose_pairs(names: Sequence[str], text: str, rng: "Random") -> list[tuple[str, str]]:
    """The ordered pairs that `all`, `A:B,C:D` or `random:N` means for these nodes. InputError for anything else."""
    if text == "all":
        return [(a, b) for a in names for b in names if a != b]
    kind, _, rest = text.partition(":")
    if kind == "random" and "random" not in names:
        return _random_pairs(names, rest, rng)
    pairs = []
    for item in text.split(","):
        a, separator, b = item.strip().partition(":")
        if not separator or a == b:
            raise InputError(f"--pairs: {item!r} is no pair of two nodes; write A:B,C:D or all or random:N")
        for name in (a, b):
            if name not in names:
                raise InputError(f"--pairs: there is no node {name!r}; the nodes are {', '.join(sorted(names)[:20])}")
        pairs.append((a, b))
    return list(dict.fromkeys(pairs))


def order_trials(pairs: Sequence[tuple[str, str]], repeats: int, rng: "Random") -> list[Trial]:
    """Every trial, shuffled, so that no node is asked for many connections at once."""
    trials = [Trial(a, b, repeat) for repeat in range(repeats) for a, b in pairs]
    rng.shuffle(trials)
    return trials


def _random_pairs(names: Sequence[str], count: str, rng: "Random") -> list[tuple[str, str]]:
    possible = len(names) * (len(names) - 1)
    if not count.isdecimal() or not 0 < int(count) <= possible:
        raise InputError(f"--pairs: random:N needs N between 1 and {possible}, the number of ordered pairs")
    chosen = rng.sample(range(possible), int(count))
    others = len(names) - 1
    return [(names[i // others], names[(i % others) + (i % others >= i // others)]) for i in chosen]
