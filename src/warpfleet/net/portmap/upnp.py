"""UPnP: a gateway that is searched by SSDP, and asked over HTTP once it has answered."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.port_mapping import PortMapping
from warpfleet.net.portmap import ssdp
from warpfleet.net.portmap.gateway import Gateway, connected
from warpfleet.net.portmap.mapping import GatewaySilent, Granted
from warpfleet.net.vantage import Vantage

if TYPE_CHECKING:
    from warpfleet.net.portmap.igd import InternetGateway


class UpnpMapper:
    """UPnP-IGD; `random_port` is asked for an external port, between the two that it is given, where the one that was
    suggested belongs to others."""

    protocol = PortMapping.UPNP

    def __init__(self, vantage: Vantage, gateway: Gateway, random_port: Callable[[int, int], int]) -> None:
        self._vantage = vantage
        self._gateway = gateway
        self._random_port = random_port
        self._location = ""
        self._device: InternetGateway | None = None

    async def greet(self) -> None:
        try:
            async with asyncio.timeout(ssdp.SEARCH_S):
                self.found_at(await ssdp.location_of(self._gateway, self._vantage, self._client_ip()))
        except (TimeoutError, OSError, WarpfleetError):
            raise GatewaySilent("no UPnP gateway answers") from None

    def found_at(self, location: str) -> None:
        """Learn the URL of the gateway's description."""
        self._location = location

    async def map(self, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        client_ip = self._client_ip()
        return await (await self._found()).map(client_ip, port, suggested=suggested, lifetime_s=lifetime_s)

    async def unmap(self, port: int, external: Endpoint) -> None:
        await (await self._found()).unmap(external)

    async def _found(self) -> "InternetGateway":
        if self._device is None:
            self._device = await asyncio.to_thread(self._make_device)
        self._device.found_at(self._location)
        return self._device

    def _make_device(self) -> "InternetGateway":
        # HTTP and XML take 0.1 s and 15 MB, which nodes whose gateway does not answer by UPnP save.
        from warpfleet.net.portmap.igd import InternetGateway  # noqa: PLC0415

        return InternetGateway(self._vantage, self._gateway, self._random_port)

    def _client_ip(self) -> str:
        """Our address, as the gateway knows it."""
        try:
            with closing(connected(self._vantage, self._gateway, ssdp.PORT)) as opened:
                return str(opened.getsockname()[0])
        except (WarpfleetError, OSError) as error:
            raise GatewaySilent(str(error)) from None
