"""The order of a run, and when a contender is not asked again."""

from bench import cells
from bench.cells import SLOW_MS, Ended, Try

PAIRS = [("a", "b"), ("c", "d")]


def tried(contender: str, pair: tuple[str, str], took_ms: float) -> Try:
    return Try(
        contender=contender,
        initiator=pair[0],
        responder=pair[1],
        ended=Ended(error="none"),
        took_ms=took_ms,
        packets=0,
        sockets=0,
        cpu_ms=0.0,
    )


def test_contenders_take_turns_at_each_pair() -> None:
    found = list(cells.order(PAIRS, ["one", "two"], 2))
    first = [("one", ("a", "b")), ("two", ("a", "b")), ("one", ("c", "d")), ("two", ("c", "d"))]
    assert found == first * 2


def test_only_what_was_slow_at_this_pair_is_left_out() -> None:
    tries = [tried("one", PAIRS[0], SLOW_MS + 1), tried("two", PAIRS[0], SLOW_MS)]
    assert cells.too_slow(tries, "one", PAIRS[0])
    assert not cells.too_slow(tries, "two", PAIRS[0])
    assert not cells.too_slow(tries, "one", PAIRS[1])
