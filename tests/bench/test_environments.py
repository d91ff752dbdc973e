"""Why a rival's environment cannot be made."""

from pathlib import Path

import pytest

from bench import environments
from warpfleet.core.errors import MissingError


def test_the_installers_own_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "HOME", tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingError, match="No matching distribution found for aioice"):
        environments.python_of("aioice")
    assert not (tmp_path / "aioice/pins").exists(), "what was not installed is tried again"
