"""Server-reflexive addresses: what STUN servers see of a socket, several of them asked one after another (RFC 8489)."""

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import (
    ByteStream,
    ConnectionLost,
    ConnectRefused,
    Count,
    DatagramSocket,
    Unreachable,
    uncounted,
)
from warpfleet.net.racing import race
from warpfleet.net.stun import Transactions, binding_over_stream

SERVER_STAGGER_S = 0.3  # a second STUN server is asked when the first has let two transmissions go by


class TappedSocket(DatagramSocket, Protocol):
    """A datagram socket whose datagrams can be looked at before anybody receives them."""

    def tap(self, take: Callable[[bytes, Endpoint], bool]) -> Callable[[], None]:
        """Show each datagram to `take` first, which returns True for those it keeps. Returns what undoes it."""


async def udp_endpoint(socket: TappedSocket, servers: Sequence[Endpoint], *, timeout_s: float) -> Endpoint:
    """The external endpoint of a UDP socket. TimeoutError where no STUN server answers.

    Datagrams that are no answer to it stay in the socket's queue.
    """
    transactions = Transactions(socket.send_to)
    untap = socket.tap(transactions.feed)
    try:
        asking = [
            functools.partial(transactions.binding, server, timeout_s=timeout_s)
            for server in _of_family(servers, socket.local.af)
        ]
        return (await race(asking, stagger_s=SERVER_STAGGER_S, timeout_s=timeout_s)).mapped
    finally:
        untap()


async def tcp_endpoint(
    connect: Callable[[Endpoint], Awaitable[ByteStream]],
    servers: Sequence[Endpoint],
    af: int,
    *,
    timeout_s: float,
    discard: Count = uncounted,
) -> Endpoint:
    """The external endpoint of the TCP port that `connect` connects from. TimeoutError where no STUN server answers.

    `discard` gets each stream that `connect` returned.
    """
    asking = [functools.partial(_over_tcp, connect, server, timeout_s, discard) for server in _of_family(servers, af)]
    return await race(asking, stagger_s=SERVER_STAGGER_S, timeout_s=timeout_s)


async def _over_tcp(
    connect: Callable[[Endpoint], Awaitable[ByteStream]], server: Endpoint, timeout_s: float, discard: Count
) -> Endpoint:
    try:
        stream = await connect(server)
        try:
            return (await binding_over_stream(stream, timeout_s=timeout_s)).mapped
        finally:
            stream.close()
            discard(stream)
    except (ConnectionLost, ConnectRefused, Unreachable) as error:
        raise TimeoutError(str(error)) from error


def _of_family(servers: Sequence[Endpoint], af: int) -> list[Endpoint]:
    found = [server for server in servers if server.af == af]
    if not found:
        raise TimeoutError(f"the fleet has no STUN server with IPv{af}")
    return found
