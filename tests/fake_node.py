"""Two nodes with keys, the contexts of one attempt between them, and the signal channel in between."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fake_network import DELAY_S, FakeNetwork, Internet
from virtual_time import START_S
from warpfleet.core.combo import Combo, RouteType, Side
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.core.targets import USUAL_ALLOWANCE, Allowance, Budget, loopback_alias
from warpfleet.net.handshake import Handshake, Wishes
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.guard import GuardedNetwork, SharedBudget
from warpfleet.plugins.inbox import InboundStream

CONNECTION_ID = "c0" * 16
ATTEMPT_ID = "a0" * 16
STARTED_AT_US = 1_790_000_000_000_000
HEAD = {"attempt_id": ATTEMPT_ID, "af": 4, "route": RouteType.EXT, "started_at_us": STARTED_AT_US}
ALICE, BOB, MALLORY = (Identity.from_seed(name, name.encode().ljust(32, b".")) for name in ("alice", "bob", "mallory"))
_running: set["asyncio.Future[None]"] = set()  # whatever becomes of the node, until the loop ends
COMBO = Combo("udp_punch", 4, RouteType.EXT)


def handshakes(
    *,
    initiator: Identity = ALICE,
    responder: Identity = BOB,
    attempt_id: str = ATTEMPT_ID,
    nonces: bytes = b"ir",
    wishes: tuple[Wishes, Wishes] = (Wishes.NONE, Wishes.NONE),
) -> tuple[Handshake, Handshake]:
    """The initiator's and the responder's side of one attempt; `nonces` has a byte for each."""

    def side(side: Side, me: Identity, peer: Identity, nonce: int, wishes: Wishes) -> Handshake:
        return Handshake(
            side=side,
            identity=me,
            peer=peer.public,
            connection_id=CONNECTION_ID,
            attempt_id=attempt_id,
            combo=COMBO,
            started_at_us=STARTED_AT_US,
            nonce=bytes([nonce]) * 16,
            wishes=wishes,
        )

    return (
        side(Side.INITIATOR, initiator, responder, nonces[0], wishes[0]),
        side(Side.RESPONDER, responder, initiator, nonces[1], wishes[1]),
    )


def view(name: str, ip: str, *, ports: tuple[int, ...] = (443,), machine: str = "", **more: object) -> PeerView:
    """A host with one address, which is its external one as well."""
    return PeerView(
        name=name,
        machine=machine or f"machine of {name}",
        interfaces=(Interface("eth0", ip, 24),),
        listeners=tuple(Endpoint(ip, port) for port in ports),
        external={4: ip},
        **more,  # type: ignore[arg-type]
    )


@dataclass
class FakeNode:
    """What a plugin sees of its node."""

    identity: Identity
    network: FakeNetwork
    view: PeerView
    roster: dict[bytes, PublicIdentity] = field(default_factory=dict)
    listen_ports: tuple[int, ...] = (443,)
    advertised: list[Endpoint] = field(default_factory=list)
    mapped: dict[Endpoint, Endpoint | None] = field(default_factory=dict)
    expected: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    arrived: list[InboundStream] = field(default_factory=list)
    on_inbound: Callable[[InboundStream], None] | None = None
    learned: list[tuple[str, bytes]] = field(default_factory=list)
    tasks: list["asyncio.Future[None]"] = field(default_factory=list)
    callbacks: list[Callable[[], None]] = field(default_factory=list)
    standing: dict[AddressFamily, int] = field(default_factory=dict)
    knows_itself: asyncio.Event = field(default_factory=asyncio.Event)
    clock_ahead_us: int = 0

    def now_us(self) -> int:
        since_us = int((asyncio.get_running_loop().time() - START_S) * 1_000_000)
        return STARTED_AT_US + since_us + self.clock_ahead_us

    @property
    def name(self) -> str:
        return self.identity.name

    def machine_us(self, true_us: int) -> int:
        return true_us - self.clock_ahead_us

    def peer_by_key(self, key: bytes) -> PublicIdentity | None:
        return self.roster.get(key)

    def advertise(self, listener: Endpoint) -> None:
        self.advertised.append(listener)

    def advertise_mapping(self, listener: Endpoint, external: Endpoint | None) -> None:
        self.mapped[listener] = external

    def advertise_standing(self, af: AddressFamily, port: int | None) -> None:
        if port is None:
            self.standing.pop(af, None)
        else:
            self.standing[af] = port

    async def viewed(self) -> None:
        await self.knows_itself.wait()
        self.knows_itself.clear()

    def expect(self, news: Callable[[], Awaitable[None]]) -> None:
        self.expected.append(news)

    def spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        _running.add(task)
        task.add_done_callback(_running.discard)

    def on_close(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def inbound(self, inbound: InboundStream) -> None:
        self.arrived.append(inbound)
        if self.on_inbound:
            self.on_inbound(inbound)

    async def own_record(self) -> bytes:
        return b"record of " + self.name.encode()

    async def learn_record(self, peer: str, signed: bytes) -> None:
        self.learned.append((peer, signed))

    async def close(self) -> None:
        for callback in self.callbacks:
            callback()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def node(identity: Identity, internet: Internet, ip: str, **more: object) -> FakeNode:
    """A node with one address that trusts Alice and Bob."""
    roster = {i.public.key: i.public for i in (ALICE, BOB)}
    return FakeNode(identity, FakeNetwork(internet, ip), view(identity.name, ip), roster, **more)  # type: ignore[arg-type]


async def leave_at_once() -> None:
    """A claim that is granted."""


def contexts(
    alice: FakeNode,
    bob: FakeNode,
    combo: Combo,
    *,
    claim: Callable[[], Awaitable[None]] = leave_at_once,
    opened: Callable[[AttemptContext], None] = lambda _context: None,
    routes: tuple[RouteType, ...] | None = None,
    allowance: Allowance = USUAL_ALLOWANCE,
    timeout_s: float = 10.0,
) -> tuple[AttemptContext, AttemptContext]:
    """Both sides of one attempt, Alice's first. The first opening message that reaches Bob calls `opened`."""
    loop = asyncio.get_running_loop()

    def context(me: FakeNode, peer: FakeNode, side: Side) -> AttemptContext:
        alias = loopback_alias(peer.identity.public.key)
        budget, towards = SharedBudget(allowance), lambda _ip: Budget(allowance.of_a_target())
        guarded = GuardedNetwork(me.network, routes or (combo.route,), alias, budget, towards)
        return AttemptContext(
            attempt_id=ATTEMPT_ID,
            connection_id=CONNECTION_ID,
            started_at_us=STARTED_AT_US,
            side=side,
            combo=combo,
            timeout_s=timeout_s,
            theirs=peer.view if side is Side.INITIATOR else None,
            node=me,
            peer=peer.identity.public,
            network=guarded,
            rng=random.Random(1),
            nonce=me.name.encode().ljust(16, b"\0"),
            claim=claim,
            post=lambda _message: None,
            guard=guarded.guard,
            release=guarded.release,
        )

    a, b = context(alice, bob, Side.INITIATOR), context(bob, alice, Side.RESPONDER)

    def to_bob(message: AttemptMessage) -> None:
        if message.opens and b.opening is None:
            b.opening = message
            opened(b)
        else:
            b.inbox.put_message(message)

    a.post = lambda message: loop.call_later(DELAY_S, to_bob, message) and None
    b.post = lambda message: loop.call_later(DELAY_S, a.inbox.put_message, message) and None
    alice.on_inbound, bob.on_inbound = a.inbox.put_stream, b.inbox.put_stream
    return a, b
