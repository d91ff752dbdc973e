"""Runs one side of one attempt, within its deadline, and says how it ended."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from functools import partial
from ipaddress import ip_address
from typing import Any

from warpfleet.actors.budgets import Budgets
from warpfleet.actors.lander import Lander
from warpfleet.actors.open_node import OpenNode
from warpfleet.actors.surroundings import MACHINE, Surroundings
from warpfleet.actors.values import OutgoingSignal, PipeFacts, Report, Stage
from warpfleet.core.combo import AttemptOutcome, Reason, RouteType, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.targets import loopback_alias
from warpfleet.net.handed_over import HandedOver
from warpfleet.net.handshake import NONCE_BYTES, ProofFailed
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Pipe, RelayRefused, Unreachable
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.proving import PeerClosed
from warpfleet.plugins.attempt_context import AttemptContext, AttemptSpec, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.attempt_messages import Abandon, AttemptMessage
from warpfleet.plugins.contract import AttemptFactory, Strategy
from warpfleet.plugins.guard import GuardedNetwork
from warpfleet.plugins.inbox import Inbox
from warpfleet.plugins.room import Room

# Named, the peer's agreement takes one round trip; a pipe that has died meanwhile must not keep the next one waiting.
_AGREE_S = 3.0
_SEED_BYTES = 8  # of an attempt's generator, whose numbers are no secrets
# For the word that an attempt is given up, where its own time is over.
_LAST_WORD_S = 2.0
# Ends that the peer need not be told of. Which pipe won the initiator says, and the responder takes its word.
_PEER_NEED_NOT_KNOW = {
    Side.INITIATOR: {Reason.PEER_CLOSED, Reason.PEER_UNAVAILABLE, Reason.REFRESHED},
    Side.RESPONDER: {Reason.PEER_CLOSED, Reason.PEER_UNAVAILABLE, Reason.REFRESHED, Reason.OTHER_PIPE_WON},
}

_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (ConnectRefused, Reason.REFUSED),
    (Unreachable, Reason.UNREACHABLE),
    (PeerClosed, Reason.PEER_CLOSED),
    (ConnectionLost, Reason.RESET),
    (ProofFailed, Reason.PROOF_FAILED),
    (RelayRefused, Reason.RELAY_REFUSED),
)

_log = logging.getLogger(__name__)


class AttemptRun:
    """One side of one attempt. `report` hears of each stage, `post` takes messages for the peer, and `on_pipe` gets the
    pipe that it won, or `on_path` the path for the one that its connection has; `targets` are the route types whose
    addresses it may send to. `budgets` and `room` it shares with all attempts of the host. `lander` reaches the program
    that the pipe may be for, where that is another process."""

    def __init__(
        self,
        spec: AttemptSpec,
        node: OpenNode,
        peer: PublicIdentity,
        targets: Sequence[RouteType],
        budgets: Budgets,
        *,
        report: Callable[[Report], None],
        post: Callable[[OutgoingSignal], None],
        on_pipe: Callable[["AttemptRun", Pipe], Coroutine[Any, Any, None]],
        on_path: Callable[["AttemptRun", ProvedPath], None],
        room: Room,
        lander: Lander | None = None,
        surroundings: Surroundings = MACHINE,
    ) -> None:
        self._network = GuardedNetwork(
            node.network,
            targets,
            loopback_alias(peer.key),
            budgets.with_peer(node.name, peer),
            partial(budgets.towards, node.name),
        )
        self.node = node
        self.context = AttemptContext(
            **{field.name: getattr(spec, field.name) for field in fields(spec)},
            node=node,
            peer=peer,
            network=self._network,
            rng=random.Random(surroundings.random_bytes(_SEED_BYTES)),
            nonce=surroundings.random_bytes(NONCE_BYTES),
            claim=self._claim,
            post=self._post,
            guard=self._network.guard,
            release=self._network.release,
            inbox=Inbox(self._network.count),
            room=room,
        )
        if lander:
            self.context.hand_over = partial(lander.hand_over, self.context)
        self._report = report
        self._post_signal = post
        self._on_pipe = on_pipe
        self._on_path = on_path
        self._loop = asyncio.get_running_loop()
        self._begun_s = self._loop.time()
        self._named = asyncio.Event()
        self._moves: str | None = None
        self._cancel_reason: Reason | None = None
        self._proved = False
        self._peer_knows = spec.opening is not None
        self._timeout: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self._using: asyncio.Task[None] | None = None  # the pipe
        self._running = False

    def start(self, factory: AttemptFactory) -> asyncio.Task[None]:
        """Begin; the task ends when the attempt and the use of its pipe have."""
        if self.context.side is Side.RESPONDER:
            self.tell(Stage.OPENED)
        self._task = asyncio.create_task(self._run(factory))
        return self._task

    def name_winner(self, moves: str | None) -> None:
        """The coordinator lets the proved pipe be taken, or the pipe of another plugin move here."""
        self._moves = moves
        self._named.set()
        if self._timeout and not self._timeout.expired():
            latest = self._loop.time() + _AGREE_S
            self._timeout.reschedule(min(latest, self._timeout.when() or latest))

    def cancel(self, reason: Reason) -> None:
        """End it now; a pipe that it has won is closed."""
        self._cancel_reason = self._cancel_reason or reason
        if self._task and self._running:  # a task that is cancelled before its first step would end without a word
            self._task.cancel()

    async def ended(self) -> None:
        """Return once the attempt and the use of its pipe have ended."""
        if self._task:
            await asyncio.wait([self._task])

    def tell(self, stage: Stage, **facts: object) -> None:
        """Report a stage."""
        context = self.context
        self._report(
            Report(
                stage=stage,
                node=self.node.name,
                peer=self.context.peer.name,
                attempt_id=context.attempt_id,
                connection_id=context.connection_id,
                side=context.side,
                combo=context.combo,
                begun_s=self._begun_s,
                at_s=self._loop.time(),
                started_at_us=self.node.machine_us(context.started_at_us),
                sockets=self._network.sockets,
                packets_sent=self._network.packets_sent,
                **facts,  # type: ignore[arg-type]
            )
        )

    async def _run(self, factory: AttemptFactory) -> None:
        strategy: Strategy | None = None
        won: Won | None = None
        agreed: Won | None = None
        self._running = True
        try:
            if self._cancel_reason:
                raise asyncio.CancelledError
            async with asyncio.timeout(self.context.timeout_s) as self._timeout:
                await self._network.book()
                strategy = factory(self.context)
                won = await self._named_only(await strategy.run())
                agreed = await self._agreed(won)
        except TimeoutError:
            self._end(AttemptOutcome.TIMEOUT, Reason.NO_ANSWER)
        except asyncio.CancelledError:
            lost = self._proved and self._cancel_reason is Reason.OTHER_PIPE_WON
            self._end(AttemptOutcome.LOST if lost else AttemptOutcome.CANCELLED, self._cancel_reason or Reason.STOPPED)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything: it fails, and nothing else does
            self._end(AttemptOutcome.FAILED, self._reason_of(error), str(error))
        else:
            if won is None:
                self._end(AttemptOutcome.LOST, Reason.REFRESHED)
        finally:
            if strategy and not strategy.result.done():
                strategy.result.set_result(agreed)
            self._timeout = None
            self._network.give_back()
            self.context.inbox.close()
        if agreed is not None:
            await self._use(agreed)
        elif won is not None:
            await self._close(won)
        self._network.settle()

    async def _named_only(self, won: Won | None) -> Won | None:
        """The same, unless the plugin took it without leave: then nobody has proved anything on it."""
        if won is None or self.context.side is Side.RESPONDER or self._named.is_set():
            return won
        await won.close()
        raise RuntimeError("it took a pipe that was not named the winner")

    def _specific(self, local: Endpoint) -> Endpoint:
        """A socket bound to any address sends from that of the interface: the first of its family, where there are
        several."""
        addresses = self.node.view.addresses(local.af)
        return Endpoint(addresses[0].ip, local.port) if ip_address(local.ip).is_unspecified and addresses else local

    async def _use(self, won: Won) -> None:
        path = won.path
        facts = PipeFacts(path.transport, path.relayed, self._specific(path.local), path.remote)
        moves = won.plugin if isinstance(won, ProvedPath) else None
        self.tell(Stage.WON, outcome=AttemptOutcome.WON, pipe=facts, moves=moves)
        if isinstance(won, ProvedPath):
            self._on_path(self, won)
            return
        if isinstance(won, HandedOver):
            won.keep()
            return
        try:
            await (self._using or self._on_pipe(self, won))
        except asyncio.CancelledError:
            await won.close()

    async def _agreed(self, won: Won | None) -> Won | None:
        """The same, once the peer is known to have agreed. A pipe is in use before: what is sent first goes along with
        what the peer agrees to."""
        if won is not None and not isinstance(won, ProvedPath | HandedOver) and won.provisional:
            self._using = asyncio.create_task(self._on_pipe(self, won))
            await won.agreed()
        return won

    async def _close(self, won: Won) -> None:
        """Nobody has agreed to it."""
        if self._using:
            self._using.cancel()
            await asyncio.wait([self._using])
        await won.close()

    async def _claim(self) -> str | None:
        if not self._proved:
            self._proved = True
            self.tell(Stage.READY)
        await self._named.wait()
        return self._moves

    def _post(self, message: AttemptMessage) -> None:
        context = self.context
        self._peer_knows = True
        left_s = self._begun_s + context.timeout_s - self._loop.time()
        deadline_s = max(left_s, _LAST_WORD_S)
        head = self.node.name, context.peer.name, context.connection_id, context.combo.plugin
        self._post_signal(OutgoingSignal(*head, message, deadline_s))

    def _end(self, outcome: AttemptOutcome, reason: Reason, detail: str = "") -> None:
        if self._peer_knows and reason not in _PEER_NEED_NOT_KNOW[self.context.side]:
            self.context.send(Abandon, plugin=self.context.combo.plugin)
        self.tell(Stage.ENDED, outcome=outcome, reason=reason, detail=detail)

    def _reason_of(self, error: Exception) -> Reason:
        if isinstance(error, AttemptFailed):
            return error.reason
        for kind, reason in _REASONS:
            if isinstance(error, kind):
                return reason
        _log.error("plugin %s raised in attempt %s", self.context.combo.plugin, self.context.attempt_id, exc_info=error)
        return Reason.INTERNAL
