"""What becomes of the pipes that one plugin's attempts win."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from warpfleet.actors.attempt_run import AttemptRun
from warpfleet.actors.echo import Measured, echo, measure
from warpfleet.actors.lander import Lander, landing_path
from warpfleet.actors.movable import MovablePipe, Whose, whose
from warpfleet.actors.open_node import OpenNode
from warpfleet.actors.values import Stage, Use
from warpfleet.actors.work import Work
from warpfleet.core.combo import Side
from warpfleet.net.handshake import Wishes
from warpfleet.net.interfaces import Pipe
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import QuicPipe
from warpfleet.plugins.attempt_context import AttemptSpec

HeldPipe = Callable[[str, str, Side, Pipe], None]
"""Takes a pipe that is not measured: node, connection id, side, pipe."""


class WonPipes:
    """Measures, echoes or gives away each pipe, and moves those that are relayed when their path comes.

    `on_held` gets the pipes that are not measured; where there is none, the programs get them that take pipes in the
    folder `landings`.
    """

    def __init__(self, on_held: HeldPipe | None, landings: Path | None) -> None:
        self._on_held = on_held
        self._landings = landings
        self._uses: dict[AttemptRun, Use | None] = {}  # of every attempt that runs; None on the responder's side
        self._movable: dict[Whose, MovablePipe] = {}
        self._early_paths: dict[Whose, ProvedPath] = {}  # for pipes whose tunnel is still being made
        self._served: defaultdict[str, Work] = defaultdict(Work)  # by node: pipes that end in a program attached to it

    def lander(self, node: OpenNode, spec: AttemptSpec) -> Lander | None:
        """Who reaches the program that the pipe of an attempt may be for."""
        if self._landings is None:
            return None
        lander = Lander(landing_path(self._landings, node.identity.public))
        measured = spec.side is Side.INITIATOR and Wishes.MEASURED in spec.wishes
        return lander if lander.attached and not measured else None

    def expect(self, run: AttemptRun, use: Use | None) -> None:
        """An attempt begins, which may win a pipe."""
        self._uses[run] = use

    def forget(self, run: AttemptRun) -> None:
        """An attempt has ended, and the use of its pipe."""
        self._uses.pop(run, None)
        if not self._may_come(whose(run)) and (early := self._early_paths.pop(whose(run), None)):
            early.discard()

    async def use(self, run: AttemptRun, pipe: Pipe) -> None:
        """Do with a pipe what it was won for; returns when this host has no more use for it."""
        movable = self._made_movable(run, pipe) if isinstance(pipe, QuicPipe) and pipe.path.relayed else None
        held = Wishes.MEASURED not in run.context.wishes | run.context.peer_wishes
        if held and self._on_held:
            self._on_held(run.node.name, run.context.connection_id, run.context.side, pipe)
        elif held and (lander := self.lander(run.node, run.context)):
            self._served[run.node.name].start(_serve(lander, run, pipe))
        elif run.context.side is Side.RESPONDER:
            await echo(pipe)
        elif held:  # the program that it was for has gone
            await pipe.abort()
        elif movable:
            _tell(run, await measure(pipe))
            if self._uses[run] is Use.KEEP:
                await movable.moved.wait()
                _tell(run, await measure(pipe))
                await asyncio.shield(movable.closed)
            await pipe.close()
        else:
            measured = await measure(pipe)
            await pipe.close()  # the connection that begins next may want the same standing socket
            _tell(run, measured)

    def move(self, node: str, path: ProvedPath) -> None:
        """Move a node's pipe to a path that it has won; one that no pipe has, or may come to have, is closed."""
        pipe = node, path.peer, path.connection_id, path.side
        if movable := self._movable.get(pipe):
            movable.move(path)
        elif pipe not in self._early_paths and self._may_come(pipe):
            self._early_paths[pipe] = path
        else:
            path.discard()

    async def close(self, node: str) -> None:
        """Take the pipes of a node from the programs that have them."""
        if served := self._served.pop(node, None):
            await served.cancel()

    def _may_come(self, pipe: Whose) -> bool:
        return any(whose(run) == pipe for run in self._uses)

    def _made_movable(self, run: AttemptRun, pipe: QuicPipe) -> MovablePipe:
        movable = self._movable[whose(run)] = MovablePipe(run, pipe)
        movable.closed.add_done_callback(lambda _: self._movable.pop(whose(run)))
        if early := self._early_paths.pop(whose(run), None):
            movable.move(early)
        return movable


async def _serve(lander: Lander, run: AttemptRun, pipe: Pipe) -> None:
    """Let the program that is attached to the node have it; without one, peers find their echo."""
    if await lander.serve(run.context, pipe):
        return
    if run.context.side is Side.RESPONDER:
        await echo(pipe)
    else:
        await pipe.abort()


def _tell(run: AttemptRun, measured: Measured | None) -> None:
    first_byte_at_s = measured.first_byte_at_s if measured else None
    rtt_ms = measured.rtt_ms if measured else None
    run.tell(Stage.MEASURED, first_byte_at_s=first_byte_at_s, rtt_ms=rtt_ms)
