"""NAT probes of nodes that are opened together: what one finds out about an exit, the others behind it only check."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from warpfleet.actors.nat_memory import NatMemory
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.nat import NatSource
from warpfleet.core.peer import AddressFamily
from warpfleet.net.interfaces import CountableNetwork
from warpfleet.net.natprobe import NatReport, probe

_PROBE_S = 5.0
_SHARED_S = (
    2.5  # for another's probe, which takes four round trips or 1.5 s; half of our time is left to probe ourselves
)
_MEMORY_S = 0.5  # an answer takes milliseconds: a memory that is slower than the probe it saves is none
_AT_ONCE = 32  # a probe opens some ten sockets and sends some thirty packets in two round trips

_log = logging.getLogger(__name__)


class SharedProbes:
    """The probes of one opening. `memory` is asked once for each exit; `now` gives seconds since 1970."""

    def __init__(self, memory: NatMemory | None, now: Callable[[], float]) -> None:
        self._memory = memory
        self._now = now
        self._probing = asyncio.Semaphore(_AT_ONCE)
        self._found: dict[Exit, asyncio.Future[KnownNat | None]] = {}
        self._new: dict[Exit, KnownNat] = {}

    async def probe(
        self,
        network: CountableNetwork,
        servers: Sequence[Endpoint],
        *,
        realm: str,
        af: AddressFamily,
        seen: Callable[[str], None] = lambda _: None,
    ) -> NatReport:
        """Probe the NATs before a node's network; `seen` is told the external address as soon as an answer shows it.
        Unreachable where the network has no such address family."""
        leading: asyncio.Future[KnownNat | None] | None = None

        async def recall(external_ip: str) -> KnownNat | None:
            nonlocal leading
            seen(external_ip)
            where = Exit.of(realm, external_ip)
            if where in self._found:
                return await self._of_another(where)
            leading = self._found[where] = asyncio.get_running_loop().create_future()
            return await self._remembered(where)

        known: KnownNat | None = None
        try:
            async with self._probing:
                report = await probe(network, servers, af=af, timeout_s=_PROBE_S, recall=recall)
            known = self._known(report, realm)
        finally:
            if leading:
                leading.set_result(known)
        return report

    async def remember(self) -> None:
        """Give the memory what was found out by running every test."""
        if self._memory is None or not self._new:
            return
        try:
            async with asyncio.timeout(_MEMORY_S):
                await self._memory.remember(list(self._new.values()))
        except Exception as error:  # noqa: BLE001 - a memory that fails costs probes, nothing else
            _log.warning("what was found out about NATs is not remembered: %r", error)

    async def _of_another(self, where: Exit) -> KnownNat | None:
        done, _ = await asyncio.wait([self._found[where]], timeout=_SHARED_S)
        return self._found[where].result() if done else None

    async def _remembered(self, where: Exit) -> KnownNat | None:
        if self._memory is None:
            return None
        try:
            async with asyncio.timeout(_MEMORY_S):
                return await self._memory.recall(where)
        except Exception as error:  # noqa: BLE001 - as if nothing were known
            _log.warning("what is known of the NATs at %s is not to be had: %r", where.address, error)
            return None

    def _known(self, report: NatReport, realm: str) -> KnownNat | None:
        """What a probe says of its exit, where that is all there is to say: what is incomplete would have to be probed
        again. It is kept for `remember` where it is new."""
        if report.external_ip is None or not report.behaviour.complete:
            return None
        known = KnownNat(Exit.of(realm, report.external_ip), report.behaviour, self._now())
        if report.source is NatSource.RFC5780:
            self._new[known.exit] = known
        return known
