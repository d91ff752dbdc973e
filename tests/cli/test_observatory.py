"""`warpfleet observatory`: what it lists, and what is left once it has forgotten."""

import json
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from warpfleet.cli.main import app
from warpfleet.configs.state import observatory_path
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.experience import Between, Evidence, Inbound
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.telemetry.observatory_store import ObservatoryStore

HOME = Exit("lab-0123", 4, "198.51.100.1")
CONE = NatBehaviour(
    mapping=Mapping.EIM,
    filtering=Filtering.APDF,
    port_assignment=PortAssignment.PRESERVING,
    translated=True,
    udp=True,
)
INBOUND = Inbound(HOME, "direct_connect")
BETWEEN = Between("lab-0123", "udp_punch", 4, CONE.signature, CONE.signature)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "warpfleet"


@pytest.fixture
def learnt() -> float:
    """When the observatory learnt what it knows: an hour and two minutes ago."""
    at = time.time() - 62 * 60
    with closing(ObservatoryStore(observatory_path())) as store:
        store.put_nats([KnownNat(HOME, CONE, at)])
        store.put_evidence([Evidence(INBOUND, False, at), Evidence(BETWEEN, True, at, 372.0, 82.0)])
    return at


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["observatory", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("learnt")
def test_it_lists_exits_and_tracks_with_their_age() -> None:
    lines = [line.split() for line in run().splitlines()]
    age = ["1", "h", "02", "min"]
    assert ["lab-0123", "198.51.100.1", "port_restricted", "EIM", "APDF", "preserving", *age] in lines
    assert ["lab-0123", "direct_connect", "198.51.100.1", "0", "of", "1", "-", "-", *age] in lines
    punched = ["lab-0123", "udp_punch", CONE.signature, "and", "1", "of", "1", "372", "ms", "82", "ms", *age]
    assert lines[lines.index(punched) + 1] == [CONE.signature]


def test_the_same_as_json(learnt: float) -> None:
    values = json.loads(run("--json"))
    (exit_,), (between, inbound) = values["exits"], values["tracks"]
    assert (exit_["realm"], exit_["af"], exit_["address"], exit_["alias"]) == (
        "lab-0123",
        4,
        "198.51.100.1",
        "port_restricted",
    )
    assert (exit_["mapping"], exit_["hairpin"], exit_["observed_at"]) == ("EIM", None, pytest.approx(learnt))
    assert exit_["age_s"] == pytest.approx(62 * 60, abs=30)
    assert (inbound["plugin"], inbound["address"], inbound["wins"], inbound["tries"], inbound["connect_ms"]) == (
        "direct_connect",
        "198.51.100.1",
        0,
        1,
        None,
    )
    assert (between["plugin"], between["initiator"], between["connect_ms"]) == ("udp_punch", CONE.signature, 372.0)


@pytest.mark.usefixtures("learnt")
def test_forgotten_it_knows_nothing() -> None:
    assert "Nothing is known" in run("--forget")
    assert json.loads(run("--json")) == {"exits": [], "tracks": []}


def test_it_knows_nothing_to_begin_with(state: Path) -> None:
    assert "Nothing is known" in run()
    assert [path.name for path in state.iterdir()] == ["observatory.sqlite"]
    assert state.stat().st_mode & 0o777 == 0o700
