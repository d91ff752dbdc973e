"""The door of the listeners lives at the time of the tests' own connections."""

from types import SimpleNamespace

import pytest

from fake_node import STARTED_AT_US
from warpfleet.plugins.direct_connect import run


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "time", SimpleNamespace(time=lambda: STARTED_AT_US / 1_000_000))
