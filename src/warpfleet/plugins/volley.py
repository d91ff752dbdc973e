"""Many sockets, of which the first that hears the peer becomes the pipe."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.net.handshake import Event, ProofFailed, Received, is_frame
from warpfleet.net.interfaces import DatagramSocket, Network
from warpfleet.net.proving import EARLY_MAX, next_resend_s
from warpfleet.plugins.attempt_context import AttemptContext, Begun, Won

_REPEAT_S = 0.2  # the round trip of most paths: an answer that is on its way is not asked for again
_REPEATS = 5  # two seconds; a greeting that is copied by somebody brings no more
_GREETED_MAX = 16  # places at a time: a hit is rare, two at once are met with


class Heard(NamedTuple):
    """The socket that heard the peer, what it heard, and from where."""

    socket: DatagramSocket
    data: bytes
    source: Endpoint


async def open_sockets(network: Network, af: int, count: int) -> list[DatagramSocket]:
    """So many bound UDP sockets, in the order of their opening; none where one of them cannot be had."""
    sockets: list[DatagramSocket] = []
    try:
        for _ in range(count):
            sockets.append(await network.open_udp(af))
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def close_all(sockets: Sequence[DatagramSocket]) -> None:
    """Close them."""
    for socket in sockets:
        socket.close()


class Volley:
    """The sockets of one attempt, all of which listen. More may join them; it is heard and proved once. `begun` is what
    signals have begun.

    A responder answers wherever it is greeted, and goes on where its pipe is taken: of several that are heard, the
    initiator may hear another one first.
    """

    def __init__(
        self, context: AttemptContext, sockets: Sequence[DatagramSocket] = (), begun: Begun | None = None
    ) -> None:
        self._context = context
        self._begun = begun or Begun(context.handshake(), context.tunnel())
        self._heard: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self._early: deque[Heard] = deque(maxlen=EARLY_MAX)  # the tunnel's, that overtook a frame
        self._greeted: set[tuple[DatagramSocket, Endpoint]] = set()
        self._sockets: list[DatagramSocket] = []
        self._sending: asyncio.Task[Any] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        for socket in sockets:
            self.add(socket)

    def add(self, socket: DatagramSocket) -> None:
        """Let one more socket listen."""
        self._sockets.append(socket)
        self._start(self._hear(socket))

    async def prove(
        self,
        sending: Coroutine[Any, Any, object] | None = None,
        on_proved: Callable[[], None] = lambda: None,
        *,
        behind: asyncio.Task[Any] | None = None,
    ) -> Won:
        """Turn the first of the sockets that hears the peer into a pipe. The others are closed at once, and all of them
        where it fails. Until the peer is heard `sending` runs: what it raises ends the attempt, its return does not.
        The initiator hears by `on_proved` that the peer is there. What is heard is looked at `behind` a task: one that
        waits for a signal that it may have overtaken."""
        if sending:
            self._sending = self._start(sending)
        heard: Heard | None = None
        try:
            first_heard = await self._heard
            if behind:
                await behind
            heard = first_heard
        finally:  # and waits for nothing: who is cancelled here would keep them open
            for task in self._tasks:
                task.cancel()
            close_all([socket for socket in self._sockets if heard is None or socket is not heard.socket])
        first = [(each.data, each.source) for each in (*self._early, heard) if each.socket is heard.socket]
        return await self._context.prove_datagram(
            heard.socket, [heard.source], first=first, begun=self._begun, on_proved=on_proved
        )

    def _start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._report)
        self._tasks.append(task)
        return task

    def _report(self, task: asyncio.Task[Any]) -> None:
        """Tell whoever waits what a task has raised."""
        error = None if task.cancelled() else task.exception()
        if error and not self._heard.done():
            self._heard.set_exception(error)

    async def _hear(self, socket: DatagramSocket) -> None:
        """Wait for the first frame of this attempt that the peer has signed, and that is no greeting; what strangers
        send is ignored."""
        while not self._heard.done():
            data, source = await socket.receive()
            received = self._read(data)
            if not is_frame(data):
                self._early.append(Heard(socket, data, source))
            if received.event is Event.GREETED and received.reply:
                self._answer(socket, source, received.reply)
            elif received.event is not Event.NOTHING and not self._heard.done():
                self._heard.set_result(Heard(socket, data, source))

    def _read(self, data: bytes) -> Received:
        try:
            return self._begun.handshake.receive(data)
        except ProofFailed:
            return Received()

    def _answer(self, socket: DatagramSocket, source: Endpoint, reply: bytes) -> None:
        if self._sending:
            self._sending.cancel()
        if (socket, source) not in self._greeted and len(self._greeted) < _GREETED_MAX:
            self._greeted.add((socket, source))
            self._start(self._repeat(socket, source, reply))

    async def _repeat(self, socket: DatagramSocket, remote: Endpoint, reply: bytes) -> None:
        """Answer a greeting a few times, until the pipe is taken: either way a packet may be lost. Where that is beyond
        what this attempt may send to, it is as if it had not been heard."""
        interval_s = _REPEAT_S
        with suppress(WarpfleetError):
            for _ in range(_REPEATS):
                socket.send_to(reply, remote)
                await asyncio.sleep(interval_s)
                interval_s = next_resend_s(interval_s)
        self._greeted.discard((socket, remote))
