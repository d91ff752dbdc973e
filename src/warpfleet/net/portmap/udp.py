"""The two protocols of port 5351, spoken to a gateway over UDP: PCP, and NAT-PMP, which it grew out of."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import TypeVar

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.port_mapping import PortMapping
from warpfleet.net.portmap import natpmp, pcp
from warpfleet.net.portmap.gateway import Gateway, connected
from warpfleet.net.portmap.mapping import GatewaySilent, Granted
from warpfleet.net.vantage import Vantage

T = TypeVar("T")

GREETING_S = 0.7  # a gateway is one hop away: two questions' time
_ANSWER_S = 2.0  # it may have to ask a carrier's before it answers
_FIRST_RESEND_S = 0.25  # RFC 6886 section 3.1, doubled each time
_MAX_DATAGRAM_BYTES = pcp.MAX_MESSAGE_BYTES + 1  # one that is longer is no answer


@asynccontextmanager
async def repeated(send: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Send now and, at intervals that double, until the block ends. What is wrong with the socket, reading it tells."""

    async def keep_sending() -> None:
        interval_s = _FIRST_RESEND_S
        while True:
            with suppress(OSError):
                await send()
            await asyncio.sleep(interval_s)
            interval_s *= 2

    sending = asyncio.create_task(keep_sending())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def ask(opened: socket.socket, request: bytes, parse: Callable[[bytes], T | None], *, timeout_s: float) -> T:
    """Send a request by a connected UDP socket until `parse` finds an answer in what comes back. GatewaySilent."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s), repeated(lambda: loop.sock_sendall(opened, request)):
            while True:
                answer = parse(await loop.sock_recv(opened, _MAX_DATAGRAM_BYTES))
                if answer is not None:
                    return answer
    except TimeoutError:
        raise GatewaySilent("it does not answer") from None
    except OSError as error:  # ICMP: nobody has that port
        raise GatewaySilent(f"it does not listen ({error.strerror})") from None


def _connected(vantage: Vantage, gateway: Gateway) -> socket.socket:
    try:
        return connected(vantage, gateway, pcp.PORT)
    except (WarpfleetError, OSError) as error:  # no way there, or the vantage is gone
        raise GatewaySilent(str(error)) from None


class PcpMapper:
    """PCP; over IPv6 its mappings are pinholes. `random_bytes` must be a cryptographic source: the nonce of a mapping
    is what keeps others from taking it back (RFC 6887 section 18.1)."""

    protocol = PortMapping.PCP

    def __init__(self, vantage: Vantage, gateway: Gateway, random_bytes: Callable[[int], bytes]) -> None:
        self._vantage = vantage
        self._gateway = gateway
        self._nonces: defaultdict[int, bytes] = defaultdict(lambda: random_bytes(pcp.NONCE_BYTES))

    async def greet(self) -> None:
        with closing(_connected(self._vantage, self._gateway)) as opened:
            request = pcp.announce_request(opened.getsockname()[0])
            await ask(opened, request, pcp.parse_announced, timeout_s=GREETING_S)

    async def map(self, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        mapped = await self._map(port, suggested, int(lifetime_s))
        return Granted(mapped.external, mapped.lifetime_s, mapped.epoch_s)

    async def unmap(self, port: int, _external: Endpoint) -> None:
        await self._map(port, 0, 0)

    async def _map(self, port: int, suggested: int, lifetime_s: int) -> pcp.Mapped:
        nonce = self._nonces[port]
        anywhere = "::" if self._gateway.af == 6 else "0.0.0.0"  # noqa: S104 - any external address will do
        with closing(_connected(self._vantage, self._gateway)) as opened:
            client_ip = opened.getsockname()[0]
            request = pcp.map_request(client_ip, nonce, port, Endpoint(anywhere, suggested), lifetime_s)
            return await ask(opened, request, lambda data: pcp.parse_mapped(data, nonce, port), timeout_s=_ANSWER_S)


class NatPmpMapper:
    """NAT-PMP, which is for IPv4 alone."""

    protocol = PortMapping.NATPMP

    def __init__(self, vantage: Vantage, gateway: Gateway) -> None:
        self._vantage = vantage
        self._gateway = gateway

    async def greet(self) -> None:
        await self._ask(natpmp.address_request(), natpmp.parse_address, GREETING_S)

    async def map(self, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        address = await self._ask(natpmp.address_request(), natpmp.parse_address, _ANSWER_S)
        mapped = await self._map(port, suggested, int(lifetime_s))
        return Granted(Endpoint(address.ip, mapped.external_port), mapped.lifetime_s, mapped.epoch_s)

    async def unmap(self, port: int, _external: Endpoint) -> None:
        await self._map(port, 0, 0)

    async def _map(self, port: int, suggested: int, lifetime_s: int) -> natpmp.Mapped:
        request = natpmp.map_request(port, suggested, lifetime_s)
        return await self._ask(request, lambda data: natpmp.parse_mapped(data, port), _ANSWER_S)

    async def _ask(self, request: bytes, parse: Callable[[bytes], T | None], timeout_s: float) -> T:
        with closing(_connected(self._vantage, self._gateway)) as opened:
            return await ask(opened, request, parse, timeout_s=timeout_s)
