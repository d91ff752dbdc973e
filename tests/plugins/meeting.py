"""One attempt of one technique between two nodes in memory, Alice's and Bob's."""

import asyncio

import pytest

from fake_nat import EXTERNAL, natted
from fake_network import Internet
from fake_node import ALICE, BOB, FakeNode, contexts, node
from standing_pair import carries
from warpfleet.core.combo import Combo, Reason, RouteType
from warpfleet.core.identity import Identity
from warpfleet.net.interfaces import Pipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import Strategy

EXT = RouteType.EXT


def two(internet: Internet) -> tuple[FakeNode, FakeNode]:
    return node(ALICE, internet, EXTERNAL["alice"]), node(BOB, internet, EXTERNAL["bob"])


class Meeting:
    """One attempt: Alice's side runs at once, Bob's as soon as the opening message is there."""

    def __init__(self, technique: type[Strategy], alice: FakeNode, bob: FakeNode, route: RouteType = EXT) -> None:
        self.technique = technique
        self.responding: asyncio.Task[Pipe | None] | None = None
        combo = Combo(technique.name, 4, route)
        self.a, self.b = contexts(
            alice, bob, combo, opened=self._open, routes=technique.reaches or None, allowance=technique.allowance
        )

    async def run(self, context: AttemptContext) -> Pipe | None:
        """Run one side."""
        factory = await self.technique.setup(context.node)
        assert factory
        return await factory(context).run()

    def _open(self, context: AttemptContext) -> None:
        self.responding = asyncio.create_task(self.run(context))

    async def pipes(self) -> tuple[Pipe, Pipe]:
        async with asyncio.timeout(20):
            mine = await self.run(self.a)
            assert self.responding
            theirs = await self.responding
        assert mine
        assert theirs
        return mine, theirs


async def carries_then_closes(mine: Pipe, theirs: Pipe) -> None:
    """Both directions work."""
    await carries(mine, theirs)
    await asyncio.gather(mine.close(), theirs.close())


def reason_of(error: pytest.ExceptionInfo[AttemptFailed]) -> Reason:
    return error.value.reason


def port_filtered(identity: Identity, internet: Internet) -> FakeNode:
    """A node whose endpoint is the same for all destinations."""
    return natted(identity, internet, "eim_random_ports")


async def meets(technique: type[Strategy], internet: Internet, alice: FakeNode, bob: FakeNode) -> None:
    """They connect, and soon nothing is left open but the pipe."""
    mine, theirs = await Meeting(technique, alice, bob).pipes()
    assert len(internet.open_sockets()) == 2
    await carries_then_closes(mine, theirs)
    assert internet.open_sockets() == []
