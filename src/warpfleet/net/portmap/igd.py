"""An Internet Gateway Device that is asked over HTTP (IGD:1 and IGD:2 of the UPnP Forum).

`async-upnp-client` speaks description and SOAP. Its sockets are opened at the vantage, and it talks to nobody but the
gateway.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

import aiohttp
from async_upnp_client.client import UpnpAction, UpnpDevice, UpnpRequester
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError, UpnpConnectionError

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.portmap.gateway import Gateway
from warpfleet.net.portmap.mapping import GatewaySilent, Granted, MappingRefused
from warpfleet.net.portmap.ssdp import http_host
from warpfleet.net.vantage import Vantage

_MAX_DOCUMENT_BYTES = 262_144  # descriptions have some ten thousand
_TALK_S = 5.0  # description, some services' descriptions, an action or two
_CONFLICT, _PERMANENT_ONLY, _UNKNOWN_PINHOLE = 718, 725, 704  # error codes of the services
_PORT_TRIES = 3
_FIRST_PORT, _LAST_PORT = 1024, 65_535
_TCP = 6  # the protocol's number
_PURPOSE = "warpfleet"


class InternetGateway:
    """One gateway; over IPv6 its mappings are pinholes. `random_port` is asked for an external port, between the two
    that it is given, where the one that was suggested belongs to others. GatewaySilent, MappingRefused."""

    def __init__(self, vantage: Vantage, gateway: Gateway, random_port: Callable[[int, int], int]) -> None:
        self._vantage = vantage
        self._gateway = gateway
        self._random_port = random_port
        self._location = ""
        self._device: UpnpDevice | None = None
        self._pinholes: dict[Endpoint, int] = {}  # the gateway's number for each

    def found_at(self, location: str) -> None:
        """Learn the URL of the gateway's description."""
        if location != self._location:
            self._location, self._device = location, None

    async def map(self, client_ip: str, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        """Have a port of ours mapped; `client_ip` is our address, as the gateway knows it."""
        async with _Talk():
            if self._gateway.af == 6:
                await self._open_pinhole(Endpoint(client_ip, port), int(lifetime_s))
                return Granted(Endpoint(client_ip, port), lifetime_s)
            told = await self._call("GetExternalIPAddress")
            external_ip = str(ip_address(told["NewExternalIPAddress"]))
            external_port = await self._add(client_ip, port, suggested, int(lifetime_s))
            return Granted(Endpoint(external_ip, external_port), lifetime_s)

    async def unmap(self, external: Endpoint) -> None:
        """Take it back."""
        async with _Talk():
            if self._gateway.af == 6:
                await self._call("DeletePinhole", UniqueID=self._pinholes.pop(external))
            else:
                await self._call("DeletePortMapping", **_key(external.port))

    async def _add(self, client_ip: str, port: int, external_port: int, lifetime_s: int) -> int:
        """The external port of a new or renewed mapping.

        By AddPortMapping, which both versions have: the most common daemon misnames the result of AddAnyPortMapping."""
        mapping = {"NewInternalPort": port, "NewInternalClient": client_ip, "NewEnabled": True}
        mapping |= {"NewPortMappingDescription": _PURPOSE, "NewLeaseDuration": lifetime_s}
        for _ in range(_PORT_TRIES):
            try:
                await self._call("AddPortMapping", **_key(external_port), **mapping)
            except UpnpActionError as error:
                if error.error_code == _PERMANENT_ONLY:  # then it lives until we take it back
                    mapping["NewLeaseDuration"] = 0
                elif error.error_code == _CONFLICT:
                    external_port = self._random_port(_FIRST_PORT, _LAST_PORT)
                else:
                    raise
            else:
                return external_port
        raise MappingRefused("the gateway grants neither the port that we like nor any other")

    async def _open_pinhole(self, inside: Endpoint, lifetime_s: int) -> None:
        if inside in self._pinholes:
            try:
                await self._call("UpdatePinhole", UniqueID=self._pinholes[inside], NewLeaseTime=lifetime_s)
            except UpnpActionError as error:
                if error.error_code != _UNKNOWN_PINHOLE:
                    raise
            else:
                return
        ends = {"RemoteHost": "", "RemotePort": 0, "InternalClient": inside.ip, "InternalPort": inside.port}
        told = await self._call("AddPinhole", **ends, Protocol=_TCP, LeaseTime=lifetime_s)
        self._pinholes[inside] = int(told["UniqueID"])

    async def _call(self, name: str, **arguments: Any) -> Mapping[str, Any]:
        action = await self._action(name)
        if action is None:
            raise MappingRefused(f"the gateway has no {name}")
        called: Mapping[str, Any] = await action.async_call(**arguments)
        return called

    async def _action(self, name: str) -> UpnpAction | None:
        """An action of whichever service has it."""
        if self._device is None:
            requester = _Requester(self._vantage, self._gateway)
            self._device = await UpnpFactory(requester, non_strict=True).async_create_device(self._location)
        services = (service for service in self._device.all_services if service.has_action(name))
        return next((service.action(name) for service in services), None)


class _Talk:
    """Bounds a talk over HTTP, and makes what can go wrong in it one of two errors: MappingRefused, GatewaySilent."""

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(_TALK_S)
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise GatewaySilent("UPnP: it takes too long") from None
        if isinstance(error, UpnpActionError):
            raise MappingRefused(f"UPnP error {error.error_code}") from None
        if isinstance(error, Exception) and not isinstance(error, MappingRefused):
            # The library's own, its XML parser's, a number that is none: what is no answer comes out as anything.
            raise GatewaySilent(f"UPnP: {type(error).__name__}") from None


class _Requester(UpnpRequester):
    """HTTP with the gateway alone, from the vantage, and no more of it than a description has."""

    def __init__(self, vantage: Vantage, gateway: Gateway) -> None:
        self._vantage = vantage
        self._gateway = gateway

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        if http_host(http_request.url) != self._gateway.ip:
            raise UpnpConnectionError("an address that is not the gateway's")
        connector = aiohttp.TCPConnector(
            socket_factory=lambda _: self._vantage.open(self._gateway.af, socket.SOCK_STREAM)
        )
        headers = {"Accept-Encoding": "identity", **http_request.headers}
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.request(
                http_request.method, http_request.url, headers=headers, data=http_request.body, allow_redirects=False
            ) as response,
        ):
            body = await _read(response.content)
            return HttpResponse(response.status, response.headers, body.decode(errors="replace"))


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while len(body) <= _MAX_DOCUMENT_BYTES:
        more = await content.read(_MAX_DOCUMENT_BYTES)
        if not more:
            return body
        body += more
    raise UpnpConnectionError("a document without end")


def _key(external_port: int) -> dict[str, Any]:
    """What names a mapping; no remote host means all."""
    return {"NewRemoteHost": "", "NewExternalPort": external_port, "NewProtocol": "TCP"}
