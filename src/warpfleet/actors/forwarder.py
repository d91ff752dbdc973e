"""A local TCP port that leads to a destination beside a peer, and the peer's side of it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from warpfleet.actors.carry import carry, reset
from warpfleet.actors.forward import ask, serve
from warpfleet.actors.work import Work
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import MissingError, WarpfleetError
from warpfleet.core.forward import Destination, Forwarding, Permission
from warpfleet.net.interfaces import ConnectionLost, Pipe
from warpfleet.net.vantage import Vantage

Connect = Callable[[], Awaitable[Pipe]]
"""Makes a pipe to the peer. WarpfleetError."""

_CONNECTING_MAX = 32  # pipes in the making: a peer takes 48 attempts of each plugin from us at a time

_log = logging.getLogger(__name__)


@asynccontextmanager
async def forwarded_port(
    forwarding: Forwarding, connect: Connect, say: Callable[[str], None]
) -> AsyncIterator[Endpoint]:
    """Connections to the local port, of which the address is yielded, are carried on over a pipe each until the block
    ends; `say` is told in one line of each that fails. MissingError where the port cannot be had."""
    carrying = Work()
    turns = asyncio.Semaphore(_CONNECTING_MAX)

    async def connect_in_turn() -> Pipe:
        async with turns:
            return await connect()

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying.start(_carried(reader, writer, forwarding.destination, connect_in_turn, say))

    try:
        server = await asyncio.start_server(take, forwarding.bind, forwarding.port)
    except OSError as error:
        where = Destination(forwarding.bind, forwarding.port)
        raise MissingError(
            f"cannot listen on {where}: {os.strerror(error.errno).lower() if error.errno else error}"
        ) from None
    try:
        yield Endpoint(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        await carrying.cancel()


async def serve_forwards(pipes: AsyncIterator[Pipe], permissions: Sequence[Permission], vantage: Vantage) -> None:
    """Serve every pipe that comes, as `serve`, until no more come."""
    serving = Work()
    try:
        async for pipe in pipes:
            serving.start(_served(pipe, permissions, vantage))
    finally:
        await serving.cancel()


async def _carried(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    destination: Destination,
    connect: Connect,
    say: Callable[[str], None],
) -> None:
    try:
        async with await connect() as pipe:
            await ask(pipe, destination)
            await carry(pipe, reader, writer)
    except ConnectionLost as lost:
        say(f"the connection to {destination} broke: {lost}")
    except WarpfleetError as error:
        say(str(error))
    finally:
        reset(writer)


async def _served(pipe: Pipe, permissions: Sequence[Permission], vantage: Vantage) -> None:
    try:
        refusal = await serve(pipe, permissions, vantage)
    except ConnectionLost as lost:
        _log.info("forwarding for %s ended: %s", pipe.peer, lost)
    else:
        if refusal:
            _log.info("nothing was dialled for %s: %s", pipe.peer, refusal)
