"""A node's standing UDP socket: where one serves all peers, its endpoint is known before anybody needs it."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Kind, kind_of
from warpfleet.core.peer import AddressFamily
from warpfleet.net.interfaces import Unreachable
from warpfleet.net.shared import Loan, SharedSocket
from warpfleet.plugins.node_ports import NodePorts

# RFC 4787 REQ-5 has a mapping live for two minutes; what is met with is 30 s, and 15 s by routers that are short of
# room. Two datagrams of 20 and 44 bytes each time.
UPKEEP_S = 7.0
_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use


class Borrowed(NamedTuple):
    """A view of a standing socket, and where peers see it."""

    socket: Loan
    endpoint: Endpoint


class Standing:
    """The standing socket of a node in one family, where its NAT is of one of these kinds, all of which give it one
    endpoint for all peers. `endpoint` is where peers see it, None while that is not known; `tell` hears of its port."""

    endpoint: Endpoint | None = None
    gets_out = False
    """Whether a peer has agreed to a pipe from it: a filter may let out what goes to STUN servers, and nothing else."""

    def __init__(
        self,
        node: NodePorts,
        af: AddressFamily,
        tell: Callable[[AddressFamily, int | None], None],
        kinds: Collection[Kind] = (Kind.EASY, Kind.PORT_FILTERED),
    ) -> None:
        self._node = node
        self._af = af
        self._kinds = kinds
        self._tell = tell
        self._shared: SharedSocket | None = None
        self._looked = asyncio.Event()

    def lend(self, attempt_id: str) -> Borrowed | None:
        """A view of it for an attempt. None where there is none."""
        if self._shared is None or self.endpoint is None:
            return None
        loan = self._shared.lend(attempt_id)
        return Borrowed(loan, self.endpoint) if loan else None

    async def looked(self) -> None:
        """Return once it is known whether there is one."""
        await self._looked.wait()

    async def keep(self) -> None:
        """Open it where it is of use, and keep its mapping alive and its endpoint true for as long as the node is
        open."""
        await self._node.viewed()
        while not self._of_use():
            self._looked.set()
            await self._node.viewed()
        while True:
            await self._look()
            self._looked.set()
            await asyncio.sleep(UPKEEP_S)

    def close(self) -> None:
        """Close it; the pipes over it end."""
        if self._shared:
            self._shared.close()

    def _of_use(self) -> bool:
        view = self._node.view
        return kind_of(view.behaviour(self._af)) in self._kinds and self._af in view.external

    async def _look(self) -> None:
        endpoint: Endpoint | None = None
        with suppress(TimeoutError, Unreachable, OSError):
            self._shared = self._shared or SharedSocket(await self._node.network.open_udp(self._af))
            endpoint = await self._node.network.external_endpoint(self._shared.socket, timeout_s=_STUN_S)
        if endpoint and endpoint.ip != self._node.view.external.get(self._af):
            endpoint = None  # of a NAT with several addresses: what our record says does not lead there
        if endpoint != self.endpoint:
            self.endpoint = endpoint
            self._tell(self._af, endpoint.port if endpoint else None)
