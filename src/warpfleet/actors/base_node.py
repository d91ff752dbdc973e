"""What a node is to a program, wherever it is served: peers to connect to, and pipes that they open."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable
from difflib import get_close_matches
from uuid import uuid4
from weakref import WeakSet

from warpfleet.actors.backlog import Backlog
from warpfleet.actors.values import ConnectionRequest, Use
from warpfleet.core.combo import Policy, Reason, RouteType, Side
from warpfleet.core.errors import InputError, WarpfleetError
from warpfleet.core.exit import INTERNET
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView
from warpfleet.core.plan import Pin
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.plugins.loader import registrations
from warpfleet.plugins.registry import REGISTRY
from warpfleet.telemetry.reasons import sentence
from warpfleet.telemetry.records import ConnectionRow


class ConnectFailed(WarpfleetError):
    """No pipe came about. `reason` is of the closed vocabulary, `row` is what telemetry records of the connection."""

    def __init__(self, reason: Reason, row: ConnectionRow) -> None:
        super().__init__(f"{row.initiator} -> {row.responder}: {sentence(reason)} ({row.error})")
        self.reason = reason
        self.row = row


class BaseNode(ABC):
    """A node that connects to the peers that it trusts, and accepts pipes from them. `view` is what its address record
    says. A pipe lives no longer than its node; one that the program drops unclosed is closed with its last reference,
    as any socket of Python's.
    """

    view: PeerView

    def __init__(self, public: PublicIdentity, *, realm: str = INTERNET) -> None:
        self.public = public  # what peers need to trust it
        self._realm = realm
        self._run_id = uuid4().hex  # what telemetry knows this run by, as it knows a sweep
        self._connecting: dict[str, asyncio.Future[Pipe | ConnectionRow]] = {}
        self._backlog = Backlog()
        self._pipes: WeakSet[Pipe] = WeakSet()
        self._last_words: set[asyncio.Task[None]] = set()  # pipes that nobody wants, being closed
        self._closing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The node's name."""
        return self.public.name

    async def connect(
        self,
        peer: str,
        *,
        af: AddressFamily | None = None,
        route_type: RouteType | None = None,
        plugin_name: str | None = None,
        policy: Policy = Policy.STAGGERED,
        timeout_s: float | None = None,
    ) -> Pipe:
        """A pipe to a peer; what is given pins the combos that are tried.

        The policy has a deadline of its own, which `timeout_s` shortens. ConnectFailed where no pipe came about,
        InputError for an unknown peer, plugin or address family, ConnectionLost where the node is closed. A pipe that
        may be sent on before its peer is known to agree breaks within seconds where that does not (`Pipe.agreed`).
        """
        self._check_open()
        request = ConnectionRequest(
            sweep_id=self._run_id,
            connection_id=uuid4().hex,
            initiator=self.name,
            responder=self._known(peer),
            repeat=0,
            policy=policy,
            pin=_pin(plugin_name, af, route_type),
            use=Use.HOLD,
            realm=self._realm,
        )
        ended = self._connecting[request.connection_id] = asyncio.get_running_loop().create_future()
        try:
            return await self._connected(request, ended, timeout_s)
        except asyncio.CancelledError:
            await self._cancel(request.connection_id, Reason.STOPPED)
            if ended.done() and not ended.exception() and not isinstance(ended.result(), ConnectionRow):
                self._drop(ended.result())
            raise
        finally:
            del self._connecting[request.connection_id]

    def accept(self) -> AsyncIterator[Pipe]:
        """The pipes that peers open to us, as they come: `async for pipe in node.accept()`, or one of them by
        `await anext(node.accept())`; `pipe.peer` tells who. It ends when the node is closed."""
        return self._backlog

    async def close(self) -> None:
        """Close every pipe, and whatever else is the node's alone; connections under way fail with `Reason.STOPPED`.
        Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    @abstractmethod
    async def _begin(self, request: ConnectionRequest) -> None:
        """Have it walked; `_settle` gets its row, `_take_pipe` its pipe."""

    @abstractmethod
    async def _cancel(self, connection_id: str, reason: Reason) -> None:
        """End a connection that is under way; it still gets its row."""

    @abstractmethod
    def _trusted(self) -> Collection[str]:
        """The names of the peers."""

    @abstractmethod
    async def _close(self) -> None:
        """Close everything."""

    async def _connected(
        self, request: ConnectionRequest, ended: asyncio.Future[Pipe | ConnectionRow], timeout_s: float | None
    ) -> Pipe:
        await self._begin(request)
        done, _ = await asyncio.wait([ended], timeout=timeout_s)
        if not done:
            await self._cancel(request.connection_id, Reason.DEADLINE)
            await asyncio.wait([ended])
        outcome = ended.result()
        if isinstance(outcome, ConnectionRow):
            # Without a reason it was won just as the node closed.
            raise ConnectFailed(outcome.reason or Reason.STOPPED, outcome)
        return outcome

    def _settle(self, rows: Iterable[ConnectionRow]) -> None:
        for row in rows:
            ended = self._connecting.get(row.connection_id)
            if ended and not ended.done():
                ended.set_result(row)

    def _take_pipe(self, connection_id: str, side: Side, pipe: Pipe) -> None:
        ended = self._connecting.get(connection_id) if side is Side.INITIATOR else None
        if self._closing:
            self._drop(pipe)
        elif ended and not ended.done():
            self._pipes.add(pipe)
            ended.set_result(pipe)
        elif side is Side.RESPONDER and self._backlog.put(pipe):
            self._pipes.add(pipe)
        else:
            self._drop(pipe)

    def _close_backlog(self) -> None:
        for pipe in self._backlog.close():
            self._pipes.discard(pipe)
            self._drop(pipe)

    async def _close_pipes(self) -> None:
        await asyncio.gather(*(pipe.close() for pipe in list(self._pipes)))

    async def _last_said(self) -> None:
        """Return once the pipes that nobody takes are broken off."""
        await asyncio.gather(*self._last_words)

    def _drop(self, pipe: Pipe) -> None:
        task = asyncio.create_task(pipe.abort())
        self._last_words.add(task)
        task.add_done_callback(self._last_words.discard)

    def _known(self, peer: str) -> str:
        if peer in self._trusted():
            return peer
        near = get_close_matches(peer, self._trusted(), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else self._remedy
        raise InputError(f"node {self.name} knows no peer {peer!r}; {remedy}")

    @property
    @abstractmethod
    def _remedy(self) -> str:
        """What to do about a peer that is not known."""

    def _check_open(self) -> None:
        if self._closing:
            raise ConnectionLost(f"node {self.name} is closed")


def _pin(plugin: str | None, af: AddressFamily | None, route: RouteType | None) -> Pin:
    registrations()  # which loads the plugins, where nothing here runs any
    if plugin is not None and not REGISTRY.get(plugin).strategy.carries_pipe:
        raise InputError(f"plugin {plugin!r} carries no pipe; pin another")
    if af is not None and af not in ADDRESS_FAMILIES:
        raise InputError(f"af is 4 or 6, not {af!r}")
    return Pin(plugin, af, route)
