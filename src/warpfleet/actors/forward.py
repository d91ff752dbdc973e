"""Forwarded connections: one end asks over a pipe to have something dialled, the other dials what it permits.

The question and the answer are the first bytes of the pipe in either direction: two bytes of length, big-endian, and as
many of JSON. What follows are the bytes of the connection.
"""

import asyncio
import struct
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from warpfleet.actors.carry import carry, reset
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.forward import HOST_MAX_CHARS, PORT_MAX, Destination, Permission
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Pipe, Unreachable
from warpfleet.net.network import KernelNetwork
from warpfleet.net.racing import race
from warpfleet.net.sockets import TcpStream
from warpfleet.net.vantage import Vantage

_QUESTION_S = 5.0  # the question follows the handshake at once
_DIAL_S = 10.0  # as long as a SYN and three more (RFC 6298 section 2), and a host name that is looked up
_ANSWER_S = _DIAL_S + _QUESTION_S
_STAGGER_S = 0.25  # between the addresses of a name (RFC 8305 section 5)
_LENGTH = struct.Struct("!H")
_FRAME_MAX_BYTES = 512  # the longest question has some 300


class Refusal(StrEnum):
    """Why nothing was dialled, or what came of it."""

    MALFORMED = "malformed"
    NOT_PERMITTED = "not_permitted"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NO_ANSWER = "no_answer"


_SENTENCES = {
    Refusal.MALFORMED: "it does not understand what it was asked",
    Refusal.NOT_PERMITTED: "its configuration does not permit that; see `forward` of the fleet file",
    Refusal.REFUSED: "the connection was refused: nothing listens there",
    Refusal.UNREACHABLE: "the host cannot be resolved or reached",
    Refusal.NO_ANSWER: "nothing answers there",
}


class ForwardRefused(WarpfleetError):
    """The peer does not connect us; `reason` is why."""

    def __init__(self, peer: str, destination: Destination, reason: Refusal) -> None:
        super().__init__(f"{peer} does not connect to {destination}: {_SENTENCES[reason]}")
        self.reason = reason


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1


class _Question(_Frame):
    host: str = Field(min_length=1, max_length=HOST_MAX_CHARS)
    port: int = Field(ge=1, le=PORT_MAX)


class _Answer(_Frame):
    refusal: Refusal | None


F = TypeVar("F", bound=_Frame)


async def ask(pipe: Pipe, destination: Destination) -> None:
    """Have the peer dial; afterwards the pipe leads there. ForwardRefused, ConnectionLost."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            await _send(pipe, _Question(host=destination.host, port=destination.port))
            answer = await _receive(pipe, _Answer)
    except TimeoutError:
        raise ConnectionLost(f"{pipe.peer} was asked to dial {destination} and does not answer") from None
    except ValueError:
        raise ConnectionLost(f"{pipe.peer} was asked to dial {destination}, and its answer is none") from None
    if answer.refusal:
        raise ForwardRefused(pipe.peer, destination, answer.refusal)


async def serve(pipe: Pipe, permissions: Sequence[Permission], vantage: Vantage) -> Refusal | None:
    """Dial from `vantage` what the peer asks for, where that is permitted, and carry its bytes until both directions
    have ended; or say why not. The pipe is closed then. ConnectionLost."""
    async with pipe:
        dialled = await _dialled(pipe, permissions, vantage)
        if isinstance(dialled, Refusal):
            await _send(pipe, _Answer(refusal=dialled))
            return dialled
        reader, writer = await asyncio.open_connection(sock=dialled.detach())
        try:
            await _send(pipe, _Answer(refusal=None))
            await carry(pipe, reader, writer)
        finally:
            reset(writer)
    return None


async def _dialled(pipe: Pipe, permissions: Sequence[Permission], vantage: Vantage) -> TcpStream | Refusal:
    try:
        async with asyncio.timeout(_QUESTION_S):
            question = await _receive(pipe, _Question)
        destination = Destination.of(question.host, question.port)
    except TimeoutError:
        raise ConnectionLost(f"{pipe.peer} asks for nothing") from None
    except ValueError:
        return Refusal.MALFORMED
    if not any(permission.covers(destination) for permission in permissions):
        return Refusal.NOT_PERMITTED
    try:
        async with asyncio.timeout(_DIAL_S):
            return await _dial(destination, vantage)
    except TimeoutError:
        return Refusal.NO_ANSWER
    except ConnectRefused:
        return Refusal.REFUSED
    except (Unreachable, OSError):
        return Refusal.UNREACHABLE


async def _dial(destination: Destination, vantage: Vantage) -> TcpStream:
    network = KernelNetwork(vantage)
    remotes = await vantage.resolve(*destination)
    ways = [partial(network.connect_tcp, remote, timeout_s=_DIAL_S) for remote in remotes]
    return await race(ways, stagger_s=_STAGGER_S, timeout_s=_DIAL_S, discard=_discard)


async def _discard(stream: TcpStream) -> None:
    stream.close()


async def _send(pipe: Pipe, frame: _Frame) -> None:
    data = frame.model_dump_json().encode()
    await pipe.send(_LENGTH.pack(len(data)) + data)


async def _receive(pipe: Pipe, kind: type[F]) -> F:
    """The next frame. ValueError where it is none of this kind."""
    (size,) = _LENGTH.unpack(await _exactly(pipe, _LENGTH.size))
    if size > _FRAME_MAX_BYTES:
        raise ValueError(f"a frame has at most {_FRAME_MAX_BYTES} bytes, not {size}")
    return kind.model_validate_json(await _exactly(pipe, size))


async def _exactly(pipe: Pipe, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await pipe.recv(size - len(data))
        if not more:
            raise ConnectionLost(f"{pipe.peer} ended the pipe before anything was forwarded")
        data += more
    return data
