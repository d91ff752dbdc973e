"""Real servers on loopback, each test session's own."""

from collections.abc import AsyncIterator, Iterator

import pytest
from coturn_server import Coturn, running

from warpfleet.net.stunserver import StunServer


@pytest.fixture
async def stun_server() -> AsyncIterator[StunServer]:
    """The embedded STUN server, on two loopback addresses."""
    server = await StunServer.start()
    yield server
    await server.close()


@pytest.fixture(scope="session")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    """A TURN server that lives as long as the tests."""
    with running(tmp_path_factory.mktemp("coturn")) as server:
        yield server
