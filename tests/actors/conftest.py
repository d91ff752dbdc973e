"""What the tests of a plugin host start from, and those of a node on loopback."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from loopback_nodes import Cast, mosquitto
from plugin_bench import NAME, Fake, forever

from process_sockets import descriptors, free_port
from warpfleet.core.identity import Identity
from warpfleet.plugins.loader import registrations
from warpfleet.plugins.registry import REGISTRY, Registration


@pytest.fixture
def fake_plugin() -> Iterator[None]:
    """The plugin of the tests' own is registered, and does nothing until a test says what."""
    registrations()
    REGISTRY.add(Registration(Fake, None))
    Fake.body = forever  # type: ignore[assignment]
    yield
    del REGISTRY._entries[NAME]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker on loopback; a node connects again until it listens."""
    port = free_port()
    process = mosquitto(tmp_path_factory.mktemp("broker"), "127.0.0.1", port)
    yield f"mqtt://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def cast() -> Cast:
    return Cast(*(Identity.generate(name, secrets.token_bytes(32)) for name in ("alice", "bob", "eve")))


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """Whatever a test did with its nodes, no task and no socket outlives them."""
    sockets = descriptors()
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert descriptors() <= sockets
