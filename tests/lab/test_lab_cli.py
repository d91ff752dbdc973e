"""`warpfleet lab` and `warpfleet doctor`, as a shell sees them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from warpfleet.cli.doctor import doctor
from warpfleet.cli.lab import app
from warpfleet.core.errors import InputError
from warpfleet.lab import laboratory
from warpfleet.lab.doctor import examine

doctor_app = typer.Typer()
doctor_app.command()(doctor)


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """A small topology file."""
    path = tmp_path / "small.yaml"
    path.write_text("version: 1\nname: small-cli\nhosts: [{name: one, nat: full_cone}]\n")
    return path


@pytest.mark.lab
def test_up_list_down(topology: Path) -> None:
    run = CliRunner().invoke
    up = run(app, ["up", str(topology)])
    try:
        fleet = Path(up.stdout.strip())
        assert fleet.name == "fleet.yaml"
        assert fleet.exists()
        assert "servers" in up.stderr
        assert json.loads(run(app, ["list", "--json"]).stdout)["small-cli"] == str(fleet)
    finally:
        down = run(app, ["down", "small-cli"])
    assert down.exit_code == 0
    assert "small-cli" not in laboratory.names()


@pytest.mark.lab
def test_up_as_json_under_another_name(topology: Path) -> None:
    up = CliRunner().invoke(app, ["up", str(topology), "--name", "other-cli", "--json"])
    try:
        told = json.loads(up.stdout)
        assert told["name"] == "other-cli"
        assert Path(told["fleet"]).parent.name == "other-cli"
    finally:
        laboratory.down("other-cli")


def test_a_topology_that_is_not_there_is_an_input_error() -> None:
    assert isinstance(CliRunner().invoke(app, ["up", "nowhere"]).exception, InputError)


@pytest.mark.lab
def test_doctor_is_content() -> None:
    done = CliRunner().invoke(doctor_app, ["--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["mode"] in ("root", "rootless")
    assert {check["need"] for check in told["checks"]} >= {"nft", "mosquitto", "privilege", "nftables NAT", "delay"}
    assert all(check["ok"] for check in told["checks"])


def test_doctor_names_what_is_missing_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which

    def without_coturn(name: str, **rest: Any) -> str | None:
        return None if name == "turnserver" else which(name, **rest)

    monkeypatch.setattr(shutil, "which", without_coturn)
    missing = [check for check in examine() if not check.ok]
    assert ("turnserver", "apt install coturn") in [(check.need, check.remedy) for check in missing]
    done = CliRunner().invoke(doctor_app)
    assert done.exit_code == 3
    assert "missing  turnserver: not installed  ->  apt install coturn" in done.stdout
