"""The registry and the loader: what is found, what is refused, and what a broken plugin leaves standing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from warpfleet.core.combo import Phase, RouteType, Transport
from warpfleet.core.errors import InputError
from warpfleet.core.pairing import Requirement
from warpfleet.net.interfaces import Pipe
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.loader import load_plugins, message_owners, message_types, registrations
from warpfleet.plugins.registry import Registration, Registry

PHASES = {
    "direct_connect": Phase.DIRECT,
    "reverse_connect": Phase.DIRECT,
    "tcp_punch": Phase.PUNCH,
    "udp_punch": Phase.SPRAY,
    "random_probe": Phase.SPRAY,
    "turn": Phase.RELAY,
    "get_addr": None,
    "return_addr": None,
    "fan_out": None,
}


def strategy(without: str = "", **attributes: object) -> type[Strategy]:
    """A complete plugin class, but for what is said otherwise."""

    async def run(_self: Strategy) -> Pipe | None:
        return None

    complete = {
        "name": "mine",
        "transport": Transport.UDP,
        "requirement": Requirement.SIGNAL,
        "routes": (RouteType.EXT,),
        "run": run,
    }
    return type("Mine", (Strategy,), {k: v for k, v in (complete | attributes).items() if k != without})


def test_the_built_in_plugins_are_found() -> None:
    found = {r.name: r.phase for r in registrations()}
    assert {name: found.get(name, "missing") for name in PHASES} == PHASES
    assert [f.problem for f in load_plugins() if f.source == "built in" and f.problem] == []


def test_every_message_has_one_owner_and_is_known_to_the_dispatcher() -> None:
    types, owners = message_types(), message_owners()
    assert owners["get_addr.question"] == "return_addr", "the other side answers"
    for kind, owner in owners.items():
        assert types.get(kind) is not None
        assert owner in PHASES
    assert types.get("attempt.abandon") is not None


@pytest.mark.parametrize("attribute", ["name", "transport", "requirement", "routes"])
def test_a_plugin_that_lacks_an_attribute_is_refused_by_its_name(attribute: str) -> None:
    with pytest.raises(InputError, match=f"Mine does not state `{attribute}`"):
        Registry().add(Registration(strategy(without=attribute), Phase.PUNCH))


@pytest.mark.parametrize("name", ["", "two words", "1st", "naïve", "seventeen_letters"])
def test_a_name_that_does_not_fit_a_frame_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be an identifier"):
        Registry().add(Registration(strategy(name=name), None))


def test_a_name_belongs_to_who_came_first() -> None:
    registry = Registry()
    first = Registration(strategy(), Phase.PUNCH)
    registry.add(first)
    registry.add(first)
    with pytest.raises(InputError, match="'mine' is taken by"):
        registry.add(Registration(strategy(), Phase.PUNCH))
    assert list(registry) == [first]


def test_an_unknown_plugin_is_an_input_error_that_names_the_known_ones() -> None:
    registry = Registry()
    registry.add(Registration(strategy(), None))
    with pytest.raises(InputError, match="no plugin 'other'; there are: mine"):
        registry.get("other")


def test_the_planner_is_told_what_the_class_states() -> None:
    technique = Registration(strategy(families=(4,)), Phase.PUNCH).technique
    assert (technique.plugin, technique.phase, technique.transport) == ("mine", Phase.PUNCH, Transport.UDP)
    assert (technique.requirement, technique.routes, technique.families) == (
        Requirement.SIGNAL,
        (RouteType.EXT,),
        (4,),
    )


GOOD = """
from warpfleet.core.combo import Phase, RouteType, Transport
from warpfleet.core.pairing import Requirement
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.registry import register

@register(phase=Phase.PUNCH)
class Mine(Strategy):
    name = "NAME"
    transport = Transport.TCP
    requirement = Requirement.SIGNAL
    routes = (RouteType.EXT,)

    async def run(self):
        return None
"""
PROBE = """
import json
from warpfleet.plugins.loader import load_plugins, registrations
found = [[f.source, f.registration.name if f.registration else None, f.problem] for f in load_plugins()]
print(json.dumps({"found": found, "names": [r.name for r in registrations()]}))
"""
MODULES = {
    "good": GOOD.replace("NAME", "good_one"),
    "taken": GOOD.replace("NAME", "udp_punch"),
    "absent": None,
    "empty": "",
    "careless": "def broken(:\n",
    "clumsy": "import warpfleet\nwarpfleet.no_such_thing\n",
    "hasty": "print(undefined_name)\n",
    "divider": "1 / 0\n",
    "not-a-module": None,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What a process finds beside a distribution with one good plugin and several broken ones."""
    site = tmp_path_factory.mktemp("site")
    info = site / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    points = "".join(f"{name} = outside_{name}:Mine\n" for name in MODULES)
    (info / "entry_points.txt").write_text(f"[warpgate.strategies]\n{points}")
    for name, text in MODULES.items():
        if text is not None:
            (site / f"outside_{name}.py").write_text(text)
    import warpfleet  # noqa: PLC0415 - where it was imported from is what the child needs

    path = f"{site}:{Path(warpfleet.__file__).parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_plugin_of_another_distribution_is_found(loaded: dict[str, list]) -> None:
    assert ["outsider", "good_one", ""] in loaded["found"]
    assert "good_one" in loaded["names"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("taken", "the name 'udp_punch' is taken"),
        ("absent", "ModuleNotFoundError"),
        ("empty", "it registers nothing"),
        ("careless", "SyntaxError"),
        ("clumsy", "AttributeError"),
        ("hasty", "NameError"),
        ("divider", "ZeroDivisionError"),
        ("not-a-module", "ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_reported_and_left_out(loaded: dict[str, list], name: str, problem: str) -> None:
    (reported,) = [text for source, _, text in loaded["found"] if source == f"outsider ({name})"]
    assert problem in reported
    assert set(PHASES) <= set(loaded["names"])
