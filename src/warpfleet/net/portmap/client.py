"""The gateway of one vantage and address family, asked in whatever protocols it speaks."""

import asyncio
import functools
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from warpfleet.net.portmap import gateway
from warpfleet.net.portmap.epoch import Epoch
from warpfleet.net.portmap.gateway import Gateway
from warpfleet.net.portmap.lease import Lease
from warpfleet.net.portmap.mapping import GatewaySilent, Granted, Mapper, MappingRefused
from warpfleet.net.portmap.udp import NatPmpMapper, PcpMapper
from warpfleet.net.portmap.upnp import UpnpMapper
from warpfleet.net.vantage import Vantage

# What a node leaves behind that is killed ends so soon, and a gateway that was restarted is noticed in half that time.
LIFETIME_S = 600.0
# A gateway is one hop away. Nobody waits longer for one that may not be there; should it answer later, it maps later.
PATIENCE_S = 0.25
_OTHERS_S = 0.1  # for other protocols to answer after the first one: they are asked where that refuses

_log = logging.getLogger(__name__)


class GatewayClient:
    """Keeps the leases of one vantage and family. `mappers` tells the protocols to try, the best one first, whenever
    the gateway is looked for; `chance` is from 0 to 1."""

    def __init__(
        self,
        mappers: Callable[[], Awaitable[Sequence[Mapper]]],
        *,
        lifetime_s: float = LIFETIME_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._mappers = mappers
        self._lifetime_s = lifetime_s
        self._chance = chance
        self._epochs: defaultdict[Mapper, Epoch] = defaultdict(Epoch)
        self._search: asyncio.Task[list[Mapper]] | None = None
        self._leases: list[Lease] = []

    def lease(self, port: int) -> Lease:
        """Keep a TCP port mapped from now on."""
        lease = Lease(port, self._map, self._chance)
        self._leases.append(lease)
        return lease

    async def close(self) -> None:
        """Release every lease, whatever becomes of one of them."""
        if self._search:
            self._search.cancel()
        ends = await asyncio.gather(*(lease.close() for lease in self._leases), return_exceptions=True)
        for error in ends:
            if error:
                _log.error("a lease is not released", exc_info=error)

    async def _map(self, port: int, suggested: int) -> tuple[Mapper, Granted]:
        """Ask in each protocol that the gateway answered in, until one maps. What it last said where none does."""
        search = self._search = self._search or asyncio.create_task(self._find())
        await asyncio.wait({search})
        failure: MappingRefused | GatewaySilent = GatewaySilent("no gateway answers")
        for mapper in [] if search.cancelled() else search.result():
            try:
                granted = await mapper.map(port, suggested=suggested, lifetime_s=self._lifetime_s)
            except (MappingRefused, GatewaySilent) as error:
                failure = error
                continue
            self._note_epoch(mapper, granted)
            if granted.lifetime_s > 0:
                return mapper, granted
            failure = MappingRefused("it is granted for no time")
        if self._search is search:  # whoever asks next looks around anew
            self._search = None
        raise failure

    async def _find(self) -> list[Mapper]:
        """The protocols that the gateway answers in, in order; one that comes long after the first is left out."""
        try:
            mappers = await self._mappers()
        except Exception as error:  # noqa: BLE001 - the vantage is gone, descriptors are short: who cannot look sees none
            _log.debug("no gateway is looked for: %s: %s", type(error).__name__, error)
            return []
        greetings = {asyncio.create_task(mapper.greet()): mapper for mapper in mappers}
        silence = asyncio.get_running_loop().call_later(PATIENCE_S, self._settle)
        answered: set[Mapper] = set()
        pending = set(greetings)
        try:
            while pending:
                wait_s = _OTHERS_S if answered else None
                done, pending = await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                answered |= {greetings[task] for task in done if task.exception() is None}
                if answered:
                    silence.cancel()
                if not done:
                    break
        finally:
            silence.cancel()
            for task in greetings:
                task.cancel()
            await asyncio.gather(*greetings, return_exceptions=True)
        return [mapper for mapper in mappers if mapper in answered]

    def _settle(self) -> None:
        for lease in self._leases:
            lease.settle()

    def _note_epoch(self, mapper: Mapper, granted: Granted) -> None:
        if granted.epoch_s is None:
            return
        if self._epochs[mapper].lost_state(granted.epoch_s, asyncio.get_running_loop().time()):
            _log.info("the gateway has lost its mappings: they are asked for again")
            for lease in self._leases:
                lease.state_lost()


def client_at(vantage: Vantage, af: int) -> GatewayClient:
    """The gateway of a vantage, whichever that is at the time."""

    @functools.cache  # what was agreed on with a gateway holds for as long as it is ours
    def spoken_to(found: Gateway) -> tuple[Mapper, ...]:
        pcp, upnp = PcpMapper(vantage, found, secrets.token_bytes), UpnpMapper(vantage, found, random.randint)
        return (pcp, NatPmpMapper(vantage, found), upnp) if af == 4 else (pcp, upnp)

    def look() -> tuple[Mapper, ...]:
        found = gateway.find(vantage, af)
        return spoken_to(found) if found else ()

    return GatewayClient(lambda: asyncio.to_thread(look))


async def no_mappers() -> tuple[Mapper, ...]:
    """For where there is nobody to ask."""
    return ()
