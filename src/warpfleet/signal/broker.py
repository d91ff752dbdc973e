"""The embedded MQTT broker, for fleets that name none: amqtt on loopback, with a login of its own for each run."""

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from hmac import compare_digest
from types import TracebackType
from typing import Self

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

_USERNAME = "warpfleet"
_SHUTDOWN_TIMEOUT_S = 5.0  # amqtt waits for its clients' connections to end, which may take for ever


class OneLogin(BaseAuthPlugin):  # type: ignore[misc]
    """Admits one user name with one password."""

    @dataclass
    class Config:
        """The login."""

        username: str
        password: str = field(repr=False)

    async def authenticate(self, *, session: Session) -> bool:
        """Whether the session brought the login."""
        given = f"{session.username}\0{session.password}".encode()
        return compare_digest(given, f"{self.config.username}\0{self.config.password}".encode())


class EmbeddedBroker:
    """`async with EmbeddedBroker() as broker: broker.url` serves on a free port of 127.0.0.1 in this event loop."""

    def __init__(self) -> None:
        self._password = secrets.token_urlsafe(24)
        self._broker: Broker | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it serves, with the login; keep it out of logs. Valid once started."""
        return f"mqtt://{_USERNAME}:{self._password}@127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen."""
        for noisy in ("amqtt", "transitions"):  # they log every packet and every state change
            logging.getLogger(noisy).setLevel(logging.ERROR)
        login = {"username": _USERNAME, "password": self._password}
        self._broker = Broker(
            BrokerConfig(
                listeners={"default": ListenerConfig(bind="127.0.0.1:0")},
                plugins={f"{OneLogin.__module__}.{OneLogin.__qualname__}": login},
            )
        )
        await self._broker.start()
        self._port = self._broker._servers["default"].instance.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop serving; idempotent."""
        broker, self._broker = self._broker, None
        if broker is not None:
            try:
                async with asyncio.timeout(_SHUTDOWN_TIMEOUT_S):
                    await broker.shutdown()
            except TimeoutError:
                logging.getLogger(__name__).warning("the embedded broker did not stop within %g s", _SHUTDOWN_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
