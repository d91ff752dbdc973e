"""Bytes between a TCP connection of this host and a pipe, both ways; the end of either direction is passed on."""

import asyncio
import socket
import struct

from warpfleet.actors.together import together
from warpfleet.net.interfaces import ConnectionLost, Pipe

_READ_BYTES = 65_536
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: on, for no seconds (socket(7))


async def carry(pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return when both directions have ended, and both are closed. ConnectionLost where one of them breaks; then the
    TCP connection is reset and the pipe broken off."""
    try:
        await together(_outwards(pipe, reader), _inwards(pipe, writer))
        writer.close()
        await pipe.close()
    except OSError as error:
        raise ConnectionLost(f"the TCP connection broke: {error.strerror or error}") from None
    finally:
        reset(writer)
        await pipe.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a TCP connection such that the other end learns that it broke off (RST), unless it is being closed."""
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        writer.transport.abort()


async def _outwards(pipe: Pipe, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_READ_BYTES):
        await pipe.send(data)
    await pipe.send_eof()


async def _inwards(pipe: Pipe, writer: asyncio.StreamWriter) -> None:
    async for data in pipe:
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    await writer.drain()
