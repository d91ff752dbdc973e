"""Many sockets, of which the first that hears the peer becomes the pipe."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import ProofFailed
from warpfleet.net.interfaces import DatagramSocket, Network
from warpfleet.plugins.attempt_context import AttemptContext, Begun, Won


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
    """The sockets of one attempt, all of which listen. More may join them; it is heard and proved once."""

    def __init__(self, context: AttemptContext, sockets: Sequence[DatagramSocket] = ()) -> None:
        self._context = context
        self._handshake = context.handshake()
        self._heard: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self._sockets: list[DatagramSocket] = []
        self._tasks: list[asyncio.Task[Any]] = []
        for socket in sockets:
            self.add(socket)

    def add(self, socket: DatagramSocket) -> None:
        """Let one more socket listen."""
        self._sockets.append(socket)
        self._start(self._hear(socket))

    async def prove(self, sending: Coroutine[Any, Any, None] | None = None) -> Won:
        """Turn the first of the sockets that hears the peer into a pipe; `sending` as below."""
        return await self.proved(await self.first_heard(sending))

    async def first_heard(self, sending: Coroutine[Any, Any, object] | None = None) -> Heard:
        """The first of the sockets that hears the peer. The others are closed at once, and all of them where it fails.
        Meanwhile `sending` runs: what it raises ends the attempt, its return does not."""
        if sending:
            self._start(sending)
        heard: Heard | None = None
        try:
            heard = await self._heard
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            close_all([socket for socket in self._sockets if heard is None or socket is not heard.socket])
        return heard

    async def proved(self, heard: Heard, begun: Begun | None = None) -> Won:
        """The pipe to whom that socket heard; `begun` is what signals have begun."""
        first = heard.data, heard.source
        return await self._context.prove_datagram(heard.socket, [heard.source], first=first, begun=begun)

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._report)
        self._tasks.append(task)

    def _report(self, task: asyncio.Task[Any]) -> None:
        """Tell whoever waits what a task has raised."""
        error = None if task.cancelled() else task.exception()
        if error and not self._heard.done():
            self._heard.set_exception(error)

    async def _hear(self, socket: DatagramSocket) -> None:
        """Wait for the first frame of this attempt that the peer has signed; what strangers send is ignored."""
        while not self._heard.done():
            data, source = await socket.receive()
            if self._is_the_peers(data) and not self._heard.done():
                self._heard.set_result(Heard(socket, data, source))

    def _is_the_peers(self, data: bytes) -> bool:
        try:
            self._handshake.receive(data)
        except ProofFailed:
            return False
        return True
