"""Many sockets, of which the first that hears the peer becomes the pipe."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import Handshake, ProofFailed
from warpfleet.net.interfaces import DatagramSocket, Network, Pipe
from warpfleet.plugins.contract import AttemptContext

_Heard = tuple[DatagramSocket, bytes, Endpoint]


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


async def prove_first_heard(
    context: AttemptContext, sockets: Sequence[DatagramSocket], sending: Coroutine[Any, Any, None] | None = None
) -> Pipe:
    """Turn the first of the sockets that hears the peer into a pipe. The others are closed at once, and all of them
    where it fails. Meanwhile `sending` runs: what it raises ends the attempt, its return does not."""
    try:
        heard = await _first_heard(sockets, context.handshake(), sending)
    except BaseException:
        close_all(sockets)
        raise
    socket, data, source = heard
    close_all([other for other in sockets if other is not socket])
    return await context.prove_datagram(socket, [source], first=(data, source))


async def _first_heard(
    sockets: Sequence[DatagramSocket], handshake: Handshake, sending: Coroutine[Any, Any, None] | None
) -> _Heard:
    senders = [asyncio.create_task(sending)] if sending else []
    listeners = [asyncio.create_task(_hear(socket, handshake)) for socket in sockets]
    try:
        pending: set[asyncio.Task[Any]] = {*senders, *listeners}
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for listener in listeners:
                if listener in done:
                    return listener.result()
            for sender in senders:
                sender.result()
    finally:
        for task in (*senders, *listeners):
            task.cancel()
        await asyncio.gather(*senders, *listeners, return_exceptions=True)


async def _hear(socket: DatagramSocket, handshake: Handshake) -> _Heard:
    """The first frame of this attempt that the peer has signed; what strangers send is ignored."""
    while True:
        data, source = await socket.receive()
        try:
            handshake.receive(data)
        except ProofFailed:
            continue
        return socket, data, source
