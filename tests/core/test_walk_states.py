"""The states of a walk: each under every input, and what holds under all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_numbers import RELAY, RELAY_FIRST, STAGGERED, STRICT
from walk_plans import COMBOS, PLACES, A, B, plan

from warpfleet.core.combo import Combo, Phase, Reason
from warpfleet.core.plan import WalkNumbers
from warpfleet.core.walk import Action, Cancel, Finish, Move, Name, Start, Walk

# A state is how a walk over (A, B) came there; each input leads to what `advance` says next.
_STATES = {
    "running": (),
    "ready": ("ready",),
    "named": ("ready", "advance"),
    "agreed": ("ready", "advance", "agreed"),
    "ended": ("ended",),
    "over": ("ready", "advance", "agreed", "advance"),
}
_STAYS: list[Action] = []
_NAMES: list[Action] = [Name(A)]
_WINS: list[Action] = [Cancel(B, Reason.OTHER_PIPE_WON), Finish(A, None, ())]
_STOPS: list[Action] = [Cancel(A, Reason.STOPPED), Cancel(B, Reason.STOPPED), Finish(None, Reason.STOPPED, ())]
_STOPS_B: list[Action] = [Cancel(B, Reason.STOPPED), Finish(None, Reason.STOPPED, ())]


@pytest.mark.parametrize(
    ("state", "on_ready", "on_agreed", "on_ended", "on_stop"),
    [
        ("running", _NAMES, _STAYS, _STAYS, _STOPS),
        ("ready", _NAMES, _NAMES, _STAYS, _STOPS),
        ("named", _STAYS, _WINS, _STAYS, _STOPS),
        ("agreed", _WINS, _WINS, _WINS, _WINS),
        ("ended", _STAYS, _STAYS, _STAYS, _STOPS_B),
        ("over", _STAYS, _STAYS, _STAYS, _STAYS),
    ],
)
def test_every_state_takes_every_input(
    state: str, on_ready: list[Action], on_agreed: list[Action], on_ended: list[Action], on_stop: list[Action]
) -> None:
    for what, expected in (("ready", on_ready), ("agreed", on_agreed), ("ended", on_ended), ("stop", on_stop)):
        walk = Walk(plan(STRICT, direct=(A, B)))
        walk.advance(0)
        for step in (*_STATES[state], what):
            if step == "advance":
                walk.advance(0)
            elif step == "stop":
                walk.stop(Reason.STOPPED)
            else:
                getattr(walk, step)(A)
        assert walk.advance(0) == expected, f"{what} in {state}"


@pytest.mark.parametrize("what", ["ready", "agreed", "ended"])
def test_what_was_never_started_changes_nothing(what: str) -> None:
    walk = Walk(plan(STRICT, direct=(A,), relay=(B,)))
    walk.advance(0)
    getattr(walk, what)(B)
    assert walk.advance(0) == []


_INPUTS = st.one_of(
    st.tuples(st.sampled_from(["ready", "agreed", "ended"]), st.sampled_from(COMBOS)),
    st.tuples(st.just("time"), st.floats(0, 10)),
    st.just(("stop", None)),
)


@given(st.sampled_from([STRICT, STAGGERED, RELAY_FIRST]), PLACES, st.lists(_INPUTS, max_size=40))
def test_whatever_happens_the_walk_keeps_its_promises(  # noqa: C901 - one promise a branch
    numbers: WalkNumbers, places: tuple[Phase, ...], inputs: list[tuple[str, Combo | float | None]]
) -> None:
    phase_of = dict(zip(COMBOS, places, strict=True))
    carriers = {c for c in COMBOS if numbers.upgrades and phase_of[c] is RELAY}
    walk = Walk(plan(numbers, **{p.value: tuple(c for c in COMBOS if phase_of[c] is p) for p in Phase}))
    elapsed_s, live, named, started = 0.0, set(), set(), set()
    finish: Finish | None = None
    agreed: set[Combo] = set()
    for what, value in [("time", 0.0), *inputs, ("time", numbers.deadline_s)]:
        if what == "time":
            elapsed_s += value  # type: ignore[operator]
        elif what == "stop":
            walk.stop(Reason.STOPPED)
        else:
            getattr(walk, what)(value)
            if what == "ended":
                live.discard(value)
                named.discard(value)
            if what == "agreed" and finish is None:
                agreed |= {value} & named  # type: ignore[arg-type]
                named -= {value} & carriers  # type: ignore[arg-type]
        actions = walk.advance(elapsed_s)
        assert finish is None or actions == []
        for action in actions:
            if isinstance(action, Start):
                assert action.combo not in started
                if numbers is STRICT:
                    assert {phase_of[c] for c in live} <= {action.phase}
                live.add(action.combo)
                started.add(action.combo)
            elif isinstance(action, Name | Move):
                assert not named, "one at a time"
                assert action.combo in live
                assert isinstance(action, Move) == bool(agreed)
                assert not agreed & {action.combo, *(carriers if action.combo in carriers else ())}
                named.add(action.combo)
            elif isinstance(action, Cancel):
                assert action.combo in live - agreed
                live.discard(action.combo)
            else:
                assert action is actions[-1]
                finish = action
    assert finish is not None, "over by the deadline"
    assert live <= agreed, "what did not win is cancelled"
    assert (finish.winner is None) == (finish.reason is not None)
    assert (agreed - carriers or agreed) == ({finish.winner} if finish.winner else set())
    assert {s.combo for s in finish.untried} == set(COMBOS) - started
