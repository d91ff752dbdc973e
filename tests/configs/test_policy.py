"""The policies that ship, and what a policy file may say."""

from dataclasses import replace
from pathlib import Path

import pytest

from warpfleet.configs.loader import load
from warpfleet.configs.policy import PolicyNumbers, walk_numbers
from warpfleet.core.combo import Phase, Policy
from warpfleet.core.errors import InputError


@pytest.mark.parametrize("policy", list(Policy))
def test_every_policy_ships_with_numbers_for_every_phase(policy: Policy) -> None:
    numbers = walk_numbers(policy)
    assert set(numbers.timings) == set(Phase)
    assert all(timing.timeout_s < numbers.deadline_s for timing in numbers.timings.values())


def test_strict_waits_for_each_phase_and_tries_everything() -> None:
    numbers = walk_numbers(Policy.STRICT)
    assert {timing.start_s for timing in numbers.timings.values()} == {None}
    assert not numbers.skip_ruled_out
    assert sum(timing.timeout_s for timing in numbers.timings.values()) <= numbers.deadline_s


def test_staggered_overlaps_the_phases_and_has_a_relay_within_three_seconds() -> None:
    numbers = walk_numbers(Policy.STAGGERED)
    starts = {phase: timing.start_s for phase, timing in numbers.timings.items() if timing.start_s is not None}
    assert sorted(starts, key=lambda phase: starts[phase]) == [Phase.DIRECT, Phase.SPRAY, Phase.PUNCH, Phase.RELAY]
    assert (starts[Phase.DIRECT], starts[Phase.RELAY]) == (0, 2.5)
    assert numbers.skip_ruled_out
    ends = [(t.start_s or 0) + t.timeout_s for t in numbers.timings.values()]
    assert max(ends) <= numbers.deadline_s


def test_relay_first_has_the_times_of_staggered_but_for_the_relay() -> None:
    staggered, relay_first = (walk_numbers(policy).timings for policy in (Policy.STAGGERED, Policy.RELAY_FIRST))
    at_once = replace(staggered[Phase.RELAY], start_s=0)
    assert relay_first == dict(staggered) | {Phase.RELAY: at_once}
    assert [policy for policy in Policy if walk_numbers(policy).upgrades] == [Policy.RELAY_FIRST]


@pytest.mark.parametrize(("policy", "budgets_s"), [(Policy.STAGGERED, (10, 15, 10)), (Policy.PATIENT, (180, 150, 60))])
def test_the_budgets_of_a_punch_a_spray_and_a_relay(policy: Policy, budgets_s: tuple[float, ...]) -> None:
    timings = walk_numbers(policy).timings
    assert tuple(timings[phase].timeout_s for phase in (Phase.PUNCH, Phase.SPRAY, Phase.RELAY)) == budgets_s


PHASES = "phases: {direct: {timeout_s: 5}, punch: {timeout_s: 5}, spray: {timeout_s: 5}, relay: {timeout_s: 5}}\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (PHASES + "skip_ruled_out: true\ndeadline_s: 0\n", "deadline_s"),
        (PHASES + "skip_ruled_out: true\ndeadline_s: 9\nrelay_frist: true\n", "relay_frist"),
        (PHASES.replace("relay: {", "relay: {start: 1, ") + "skip_ruled_out: true\ndeadline_s: 9\n", "start"),
        (PHASES.replace("5", "-5", 1) + "skip_ruled_out: true\ndeadline_s: 9\n", "timeout_s"),
        (PHASES.replace("relay", "realy") + "skip_ruled_out: true\ndeadline_s: 9\n", "realy"),
    ],
)
def test_a_wrong_policy_file_is_one_clear_line(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=names) as error:
        load(path, PolicyNumbers)
    assert "\n" not in str(error.value)
