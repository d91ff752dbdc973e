"""Two nodes with standing sockets where they can have them, and attempts of a UDP punch between them."""

import asyncio
from dataclasses import replace

from fake_nat import natted
from fake_network import FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, COMBO, FakeNode, contexts
from virtual_time import now_s
from warpfleet.net.interfaces import Pipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.contract import AttemptFactory
from warpfleet.plugins.udp_punch import UdpPunch

OTHER_ID = "b0" * 16


class Side:
    """A node that has opened its standing socket where it can have one, and what makes its attempts."""

    factory: AttemptFactory

    def __init__(self, of: FakeNode) -> None:
        self.node = of

    async def open(self) -> None:
        factory = await UdpPunch.setup(self.node)
        assert factory
        self.factory = factory
        await asyncio.sleep(0)  # until it is waited for
        self.node.knows_itself.set()
        await asyncio.gather(*(news() for news in self.node.expected))
        self.node.view = replace(self.node.view, standing={"udp_punch": dict(self.node.standing)})

    async def run(self, context: AttemptContext) -> Pipe:
        pipe = await self.factory(context).run()
        assert pipe
        return pipe


class Pair:
    """Alice's and Bob's nodes, and one attempt after another between them."""

    def __init__(self, alice: str = "eim_random_ports", bob: str = "port_restricted") -> None:
        self.internet = Internet()
        self.alice = Side(natted(ALICE, self.internet, alice))
        self.bob = Side(natted(BOB, self.internet, bob))

    async def open(self) -> "Pair":
        await asyncio.gather(self.alice.open(), self.bob.open())
        return self

    async def close(self) -> None:
        for side in (self.alice, self.bob):
            await side.node.close()
        assert self.internet.open_sockets() == []

    async def connect(self, attempt_id: str = ATTEMPT_ID, *, swapped: bool = False) -> tuple[Pipe, Pipe]:
        """The initiator's pipe, and the responder's."""
        near, far = (self.bob, self.alice) if swapped else (self.alice, self.bob)
        responding: list[asyncio.Task[Pipe]] = []

        def opened(context: AttemptContext) -> None:
            responding.append(asyncio.create_task(far.run(context)))

        a, b = contexts(near.node, far.node, COMBO, opened=opened)
        a.attempt_id = b.attempt_id = attempt_id
        async with asyncio.timeout(5):
            mine = await near.run(a)
            return mine, await responding[0]

    async def first_byte_s(self, timeout_s: float = 5) -> tuple[float, float]:
        """How long Alice waits for her pipe, and for the echo of its first byte."""
        serving: list[asyncio.Task[None]] = []

        async def serve(context: AttemptContext) -> None:
            async with await self.bob.run(context) as pipe:
                await echo(pipe)

        a, _ = contexts(
            self.alice.node, self.bob.node, COMBO, opened=lambda b: serving.append(asyncio.create_task(serve(b)))
        )
        began_s = now_s()
        async with asyncio.timeout(timeout_s):
            pipe = await self.alice.run(a)
            connected_s = now_s() - began_s
            await pipe.send(b"x")
            assert await pipe.recv() == b"x"
            echoed_s = now_s() - began_s
            await pipe.close()
            await asyncio.gather(*serving)
        return connected_s, echoed_s

    def standing_sockets(self) -> list[FakeUdp]:
        return [socket for socket in self.internet.udp if not socket.closed]


async def carries(mine: Pipe, theirs: Pipe) -> None:
    await mine.send(b"ping")
    assert await theirs.recv() == b"ping"
    await theirs.send(b"pong")
    assert await mine.recv() == b"pong"


async def echo(pipe: Pipe) -> None:
    async for data in pipe:
        await pipe.send(data)
