"""One TCP port that is kept mapped: asked for, renewed before it runs out, released in the end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from warpfleet.core.endpoint import Endpoint, Scope, scope_of
from warpfleet.net.portmap.mapping import GatewaySilent, Granted, Mapper, MappingRefused

SEARCH_AGAIN_S = 300.0  # a gateway that was silent may have been starting, or be another one by now
RENEWAL_MIN_S = 4.0  # RFC 6887 section 11.2.1: no two requests for one mapping are closer
_RELEASE_S = 1.0  # what is not released by then runs out by itself

_log = logging.getLogger(__name__)


def renewal_s(left_s: float, chance: float) -> float:
    """How long to wait before a mapping is renewed that has `left_s` to live: between half and five eighths of that,
    by `chance` from 0 to 1 (RFC 6887 section 11.2.1)."""
    return max(left_s * (1 / 2 + chance / 8), RENEWAL_MIN_S)


class Lease:
    """A mapping of one port; `net.interfaces.PortLease` says what its methods promise.

    `ask` maps the port or renews its mapping: it is given the port and the external one to suggest, and returns who
    granted what. `chance` is from 0 to 1."""

    def __init__(
        self, port: int, ask: Callable[[int, int], Awaitable[tuple[Mapper, Granted]]], chance: Callable[[], float]
    ) -> None:
        self._port = port
        self._ask = ask
        self._chance = chance
        self._suggested = port
        self._held: tuple[Mapper, Granted] | None = None
        self._expires_s = 0.0
        self._external: Endpoint | None = None
        self._told: Endpoint | None = None
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._wake = asyncio.Event()
        self._closed = False
        self._keeping = asyncio.create_task(self._keep())

    async def settled(self) -> None:
        await self._settled.wait()

    async def changed(self) -> Endpoint | None:
        while self._external == self._told:
            self._news.clear()
            await self._news.wait()
        self._told = self._external
        return self._told

    def settle(self) -> None:
        """Nothing is heard of a gateway: nobody need wait for it."""
        self._settled.set()

    def state_lost(self) -> None:
        """The gateway has lost what it had mapped: ask again soon."""
        self._wake.set()

    async def close(self) -> None:
        self._closed = True
        self._wake.set()
        try:  # what is being asked for now may yet be granted, and is then released
            async with asyncio.timeout(_RELEASE_S):
                await self._keeping
        except TimeoutError:
            _log.debug("the mapping of TCP port %d is left to run out", self._port)

    async def _keep(self) -> None:
        while not self._closed:
            self._wake.clear()
            asked_s = asyncio.get_running_loop().time()
            await self._renew()
            self._settled.set()
            await self._pause(asked_s)
        await self._release()

    async def _pause(self, asked_s: float) -> None:
        """Wait until it is time to ask again, or the lease is closed."""
        left_s = self._expires_s - asyncio.get_running_loop().time()
        until_s = asked_s + renewal_s(left_s, self._chance()) if self._held else asked_s + SEARCH_AGAIN_S
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._wake.wait()
        # However often a gateway says that it has lost its state, it is not asked more often than that.
        while not self._closed and asyncio.get_running_loop().time() < asked_s + RENEWAL_MIN_S:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(asked_s + RENEWAL_MIN_S):
                    await self._wake.wait()

    async def _renew(self) -> None:
        try:
            mapper, granted = await self._ask(self._port, self._suggested)
        except (MappingRefused, GatewaySilent) as error:
            _log.debug("TCP port %d is not mapped: %s", self._port, error)
            if self._expires_s <= asyncio.get_running_loop().time():
                self._held = None
                self._tell(None)
            return
        former, self._held = self._held, (mapper, granted)
        if scope_of(granted.external.ip) is Scope.GLOBAL and granted.external.port:
            self._keep_granted(mapper, granted)
        else:
            _log.debug("TCP port %d is mapped to %s, behind another NAT: released", self._port, granted.external)
            await self._release()
        # A protocol replaces what it has mapped by itself. At one external endpoint, gateways have one mapping for all
        # their protocols, and taking back the one's would end the other's.
        if former and former[0] is not mapper and former[1].external != granted.external:
            await self._unmap(*former)

    def _keep_granted(self, mapper: Mapper, granted: Granted) -> None:
        if self._external != granted.external:
            _log.info("TCP port %d is mapped to %s by %s", self._port, granted.external, mapper.protocol)
        self._expires_s = asyncio.get_running_loop().time() + granted.lifetime_s
        self._suggested = granted.external.port
        self._tell(granted.external)

    async def _release(self) -> None:
        held, self._held, self._expires_s = self._held, None, 0.0
        self._tell(None)
        if held:
            await self._unmap(*held)

    async def _unmap(self, mapper: Mapper, granted: Granted) -> None:
        try:
            await mapper.unmap(self._port, granted.external)
        except (MappingRefused, GatewaySilent) as error:
            _log.debug("the mapping of TCP port %d is left to run out: %s", self._port, error)

    def _tell(self, external: Endpoint | None) -> None:
        self._external = external
        self._news.set()
