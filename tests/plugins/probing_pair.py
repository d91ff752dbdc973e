"""Two nodes of a random probe, one with random ports and one whose port stays, and attempts between them."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from meeting import port_filtered

from fake_nat import drawn, natted
from fake_network import Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, FakeNode, contexts
from standing_pair import carries, echo
from virtual_time import now_s
from warpfleet.core.combo import Combo, RouteType
from warpfleet.core.port_range import WHOLE, PortRange
from warpfleet.net.interfaces import Pipe
from warpfleet.net.quic import QuicPipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.contract import AttemptFactory
from warpfleet.plugins.random_probe import RandomProbe

COMBO = Combo("random_probe", 4, RouteType.EXT)


def bridged(
    internet: Internet,
    seed: int,
    *,
    random_initiator: bool,
    block: PortRange = WHOLE,
    known: PortRange | None = None,
) -> tuple[FakeNode, FakeNode]:
    """A node with random ports of a block, and what is known of that; and a node whose port stays."""
    one, other = (ALICE, BOB) if random_initiator else (BOB, ALICE)
    unpredictable = natted(one, internet, "symmetric_random", drawn(random.Random(seed), block))
    unpredictable.view.nat[4] = replace(unpredictable.view.nat[4], port_range=known)
    steady = port_filtered(other, internet)
    return (unpredictable, steady) if random_initiator else (steady, unpredictable)


class Pair:
    """Two nodes that have been open for a while, one of which guesses; STUN servers are there no more. What the record
    says of where it does may be old."""

    def __init__(self, seed: int = 1, *, random_initiator: bool) -> None:
        self.internet = Internet()
        self.alice, self.bob = bridged(self.internet, seed, random_initiator=random_initiator)
        self._factories: dict[str, AttemptFactory] = {}

    async def open(self, *, told: int | None = None) -> "Pair":
        for node in (self.alice, self.bob):
            factory = await RandomProbe.setup(node)
            assert factory
            self._factories[node.name] = factory
            await asyncio.sleep(0)  # until it is waited for
            node.knows_itself.set()
        await asyncio.sleep(1)
        for node in (self.alice, self.bob):
            node.network.stun = TimeoutError()
            if node.standing:
                port = told if told is not None else node.standing[4]
                node.view = replace(node.view, standing={"random_probe": {4: port}})
        return self

    async def connect(
        self,
        attempt_id: str = ATTEMPT_ID,
        *,
        for_move: bool = False,
        opened: Callable[[AttemptContext], None] = lambda _context: None,
    ) -> tuple[Pipe, "asyncio.Task[Pipe]"]:
        """The initiator's pipe, and what makes the responder's."""
        responding: list[asyncio.Task[Pipe]] = []

        def respond(b: AttemptContext) -> None:
            opened(b)
            responding.append(asyncio.create_task(self.run(b)))

        a, b = contexts(self.alice, self.bob, COMBO, opened=respond, allowance=RandomProbe.allowance)
        a.attempt_id = b.attempt_id = attempt_id
        a.for_move = for_move
        a.rng, b.rng = (random.Random(attempt_id + name) for name in "ab")
        async with asyncio.timeout(10):
            return await self.run(a), responding[0]

    async def run(self, context: AttemptContext) -> Pipe:
        pipe = await self._factories[context.node.name](context).run()
        assert isinstance(pipe, QuicPipe)
        return pipe

    async def close(self) -> None:
        await asyncio.gather(self.alice.close(), self.bob.close())
        assert self.internet.open_sockets() == []


async def carry_and_close(mine: Pipe, responding: "asyncio.Task[Pipe]") -> None:
    theirs = await responding
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())


async def echoed_within_s(mine: Pipe, responding: "asyncio.Task[Pipe]") -> float:
    """How long the first byte takes from the pipe's coming to be until its echo is there."""

    async def serve() -> None:
        async with await responding as theirs:
            await echo(theirs)

    began_s, serving = now_s(), asyncio.create_task(serve())
    await mine.send(b"x")
    assert await mine.recv() == b"x"
    took_s = now_s() - began_s
    await mine.close()
    await serving
    return took_s
