"""A node that a running cluster serves, in the hands of a program of the same user on the same host."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from warpfleet.actors.base_node import BaseNode
from warpfleet.actors.landing import Landing
from warpfleet.actors.values import ConnectionRequest
from warpfleet.actors.work import Work
from warpfleet.cluster.control import Attached, AttachRequest, CancelRequest, ClusterClient, LinkRequest
from warpfleet.cluster.running import find_running
from warpfleet.configs.fleet import Fleet
from warpfleet.configs.loader import load
from warpfleet.core.combo import Reason
from warpfleet.core.errors import MissingError, WarpfleetError
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.telemetry.records import ConnectionRow

_ANSWER_S = 10.0  # the daemon has everything at hand, unless it opens a fleet's nodes just now


class AttachedNode(BaseNode):
    """One node of a fleet that a cluster serves. Open it with `async with AttachedNode.open(...) as node`.

    While it is open, the pipes that peers open to the node come here. Its peers are the other nodes of the fleet. One
    program at a time may be attached to a node.
    """

    _remedy = "its peers are the other nodes of the fleet"

    def __init__(self, client: ClusterClient, attached: Attached) -> None:
        super().__init__(attached.identity.public, realm=attached.realm)
        self.view = attached.view
        self._client = client
        self._peers = attached.peers
        self._landing = Landing(attached.landing, attached.identity, self._take_pipe)
        self._links = Work()
        self._lost: str | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, name: str, *, fleet: Fleet | Path | None = None, cluster: ClusterClient | None = None
    ) -> AsyncIterator[Self]:
        """The node of that name, attached until the block ends. Of this fleet, or of whichever the cluster serves; of
        the cluster that this user runs, unless another is given.

        MissingError where no cluster serves the fleet, InputError where it has no such node, or another program is
        attached to it.
        """
        fleet = load(fleet, Fleet) if isinstance(fleet, Path) else fleet
        client = cluster or _running(fleet)
        done = asyncio.Event()
        answer: asyncio.Future[Attached] = asyncio.get_running_loop().create_future()
        request = AttachRequest(name, fleet)
        holding = asyncio.ensure_future(client.ask(request, stopping=done, on_event=partial(_answer, answer)))
        try:
            waiting: set[asyncio.Future[Any]] = {holding, answer}
            await asyncio.wait(waiting, timeout=_ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                holding.result()
            if not answer.done():
                raise MissingError("the cluster does not answer; see `warpfleet cluster status`")
            try:
                node = cls(client, answer.result())
            except OSError as error:
                raise MissingError(f"no pipes can be taken from the cluster: {error.strerror}") from None
            holding.add_done_callback(node._on_lost)
            try:
                yield node
            finally:
                await node.close()
        finally:
            done.set()
            with suppress(WarpfleetError, TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    await holding

    async def _begin(self, request: ConnectionRequest) -> None:
        self._links.start(self._link(request))

    async def _cancel(self, connection_id: str, reason: Reason) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._client.ask(CancelRequest(self.name, connection_id, reason))
        except (WarpfleetError, TimeoutError):
            self._fail(connection_id, ConnectionLost("the cluster does not answer"))

    async def _link(self, request: ConnectionRequest) -> None:
        try:
            row = await self._client.ask(LinkRequest(request))
            assert isinstance(row, ConnectionRow)
            ended = self._connecting.get(request.connection_id)
            if row.reason is None and ended:  # won: its pipe comes by another socket, and may be behind
                await asyncio.wait([ended], timeout=_ANSWER_S)
            self._settle([row])
        except WarpfleetError as error:
            self._fail(request.connection_id, error)

    def _fail(self, connection_id: str, error: WarpfleetError) -> None:
        ended = self._connecting.get(connection_id)
        if ended and not ended.done():
            ended.set_exception(error)

    def _trusted(self) -> Collection[str]:
        return self._peers

    def _check_open(self) -> None:
        super()._check_open()
        if self._lost:
            raise ConnectionLost(f"node {self.name} is served no more: {self._lost}")

    def _on_lost(self, holding: "asyncio.Future[object]") -> None:
        """The cluster is gone, or what it served. Pipes over sockets of ours live on."""
        if self._closing or holding.cancelled():
            return
        self._lost = str(holding.exception() or "the cluster has closed it")
        self._close_backlog()

    async def _close(self) -> None:
        self._close_backlog()
        await asyncio.gather(*(self._cancel(connection_id, Reason.STOPPED) for connection_id in self._connecting))
        await self._close_pipes()
        await self._landing.close()
        await self._last_said()
        await self._links.cancel(after_s=_ANSWER_S)


def _running(fleet: Fleet | None) -> ClusterClient:
    running = find_running()
    if running is None or not running.ready:
        of = f" that serves fleet {fleet.name}" if fleet else ""
        raise MissingError(f"no cluster is running{of}; start one: warpfleet cluster launch CONFIG")
    return ClusterClient(running.socket)


def _answer(answer: "asyncio.Future[Attached]", event: object) -> None:
    if isinstance(event, Attached) and not answer.done():
        answer.set_result(event)
