"""A relayed pipe that one of this host's attempts has won, and its move to a direct path."""

import asyncio

from warpfleet.actors.attempt_run import AttemptRun
from warpfleet.actors.values import Stage
from warpfleet.core.combo import Reason, Side
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import QuicPipe
from warpfleet.net.upkeep import Upkeep

Whose = tuple[str, str, str, Side]
"""Which pipe: node, peer, connection id, side. A peer that learnt the id of another's connection has none by it."""


def whose(run: AttemptRun) -> Whose:
    """The pipe that an attempt may win."""
    return run.node.name, run.context.peer.name, run.context.connection_id, run.context.side


class MovablePipe:
    """The pipe of an attempt; `moved` is set once it has moved. The initiator's coordinator is told of that, and of the
    pipe's end, after which nothing direct need be sought."""

    def __init__(self, run: AttemptRun, pipe: QuicPipe) -> None:
        self._run = run
        self._pipe = pipe
        self.closed = pipe.closed
        self.moved = asyncio.Event()
        if run.context.side is Side.INITIATOR:
            pipe.closed.add_done_callback(lambda _: run.tell(Stage.ENDED, reason=Reason.NOT_NEEDED))

    def move(self, path: ProvedPath) -> None:
        """Move it, or close a path that it has no use for."""
        if self.moved.is_set():
            path.discard()
            return
        try:
            Upkeep(self._pipe, path.way, self._run.context.rng.random)
        except ConnectionLost:
            path.discard()
            return
        self.moved.set()
        if self._run.context.side is Side.INITIATOR:
            self._run.tell(Stage.MOVED)
