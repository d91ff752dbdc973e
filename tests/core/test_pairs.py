"""Which pairs a sweep tries: what the user wrote, checked."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.errors import InputError
from warpfleet.core.pairs import Trial, choose_pairs, order_trials

NAMES = ["a", "b", "c"]
ALL = [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("all", ALL),
        ("a:b", [("a", "b")]),
        ("a:b, b:a", [("a", "b"), ("b", "a")]),
        ("c:a,a:b,c:a", [("c", "a"), ("a", "b")]),
    ],
)
def test_the_pairs_that_a_text_means(text: str, pairs: list[tuple[str, str]]) -> None:
    assert choose_pairs(NAMES, text, random.Random(1)) == pairs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no pair of two nodes"),
        ("a", "no pair of two nodes"),
        ("a:a", "no pair of two nodes"),
        ("a:b,", "no pair of two nodes"),
        ("a:x", "there is no node 'x'; the nodes are a, b, c"),
        ("random:0", "between 1 and 6"),
        ("random:7", "between 1 and 6"),
        ("random:-1", "between 1 and 6"),
        ("random:many", "between 1 and 6"),
        ("random:", "between 1 and 6"),
    ],
)
def test_a_text_that_means_nothing_is_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        choose_pairs(NAMES, text, random.Random(1))
    assert str(error.value).startswith("--pairs: ")
    assert "\n" not in str(error.value)


def test_a_node_may_be_called_random() -> None:
    assert choose_pairs(["random", "7"], "random:7", random.Random(1)) == [("random", "7")]


def test_no_node_means_no_pair() -> None:
    assert choose_pairs([], "all", random.Random(1)) == []


@given(st.integers(2, 12), st.data())
def test_random_pairs_are_different_ordered_pairs(count: int, data: st.DataObject) -> None:
    names = [str(number) for number in range(count)]
    wanted = data.draw(st.integers(1, count * (count - 1)))
    seed = data.draw(st.integers())
    pairs = choose_pairs(names, f"random:{wanted}", random.Random(seed))
    assert len(set(pairs)) == len(pairs) == wanted
    assert all(a != b and {a, b} <= set(names) for a, b in pairs)
    assert pairs == choose_pairs(names, f"random:{wanted}", random.Random(seed))


def test_as_many_random_pairs_as_there_are_pairs_are_all_of_them() -> None:
    assert sorted(choose_pairs(NAMES, "random:6", random.Random(3))) == ALL


def test_every_trial_once_in_an_order_that_the_seed_decides() -> None:
    trials = order_trials(ALL, 2, random.Random(1))
    assert Counter(trials) == Counter(Trial(a, b, repeat) for a, b in ALL for repeat in (0, 1))
    assert trials == order_trials(ALL, 2, random.Random(1))
    assert trials != order_trials(ALL, 2, random.Random(2))
