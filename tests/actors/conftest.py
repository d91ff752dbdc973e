"""What the tests of a plugin host start from."""

from collections.abc import Iterator

import pytest
from plugin_bench import NAME, Fake, forever

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
