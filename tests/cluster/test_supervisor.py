"""Whom a supervisor introduces to whom, without Ray."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from warpfleet.cluster.supervisor import COORDINATOR, OBSERVATORY, SIGNAL, TELEMETRY, Actor, Supervisor


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, tuple[object, ...]]]:
    """What actors are called with: role, method, arguments."""
    calls: list[tuple[str, str, tuple[object, ...]]] = []

    def call(_self: Supervisor, role: str, method: str) -> Callable[..., Awaitable[None]]:
        async def called(*arguments: object, **_options: object) -> None:
            calls.append((role, method, arguments))

        return called

    monkeypatch.setattr(Supervisor, "call", call)
    return calls


async def test_the_coordinator_hears_of_a_telemetry_actor_once_that_has_the_open_sweeps(
    tmp_path: Path, told: list[tuple[str, str, tuple[object, ...]]]
) -> None:
    supervisor = Supervisor(tmp_path, tmp_path / "observatory.sqlite")
    supervisor.actors = {role: Actor(role, f"{role} 1") for role in (TELEMETRY, OBSERVATORY, COORDINATOR, SIGNAL)}
    await supervisor._introduce_telemetry()
    supervisor.actors[TELEMETRY].handle, supervisor.actors[OBSERVATORY].handle = "telemetry 2", "observatory 2"
    await supervisor._introduce_observatory()
    await supervisor._introduce_telemetry()
    assert [arguments for role, method, arguments in told if (role, method) == (COORDINATOR, "connect_hosts")] == [
        ("telemetry 1", "observatory 1"),
        ("telemetry 1", "observatory 2"),
        ("telemetry 2", "observatory 2"),
    ]
