"""What the process that wins a pipe and the one that it is for say to each other, over a Unix socket of this user's.

The winner connects, sends an `Arrival` with one file descriptor (SCM_RIGHTS, unix(7)), and both go on with words. Each
message is a line of JSON. Both ends look at whose process the other one is (SO_PEERCRED).
"""

import asyncio
import contextlib
import socket
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from warpfleet.core.combo import Combo, Side
from warpfleet.core.identity import KEY_BYTES
from warpfleet.net.handshake import NONCE_BYTES
from warpfleet.net.interfaces import ConnectionLost, PipePath
from warpfleet.net.same_user import is_of_this_user

_EARLY_MAX_BYTES = 8192  # a first flight has 0.2 to 2 kB, by the kinds of keys that it offers
LINE_MAX_BYTES = 2048 + 2 * _EARLY_MAX_BYTES  # an arrival has some 700, and that in hexadecimal digits
_DESCRIPTORS_MAX = 4  # one is expected; more are taken in to be closed

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Nonce = Annotated[bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Key = Annotated[bytes, Field(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class Refused(ConnectionLost):
    """What came is not of this user, or none of these messages."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")


class Proof(_Message):
    """How far the proof of identity has come, of which the stream comes with this: the peer is proved, and this end has
    said TAKE or AGREED. Without a tunnel to make, where it is `plain`; `early` is what the peer has said in it."""

    attempt_id: Id
    combo: Combo
    started_at_us: int
    nonce: Nonce
    peer_nonce: Nonce
    plain: bool
    early: Annotated[bytes, Field(max_length=_EARLY_MAX_BYTES)] = b""


class Arrival(_Message):
    """A pipe for a node: the stream that it is to be made of, with the `proof`, or one end of a socket pair that leads
    to it, with its `path`."""

    connection_id: Id
    side: Side
    peer: str
    peer_key: Key
    proof: Proof | None = None
    path: PipePath | None = None


class Word(StrEnum):
    """What is said."""

    READY = "ready"  # the pipe is made
    FAILED = "failed"  # it cannot be made
    YOURS = "yours"  # it has won
    PATH = "path"  # it takes another path from now on
    END = "end"  # nothing more follows on the socket pair, and that is all there is
    CLOSE = "close"  # close it in good order
    LOST = "lost"  # it broke


class Said(_Message):
    """A word, with what belongs to it."""

    word: Word
    detail: str = Field(default="", max_length=512)
    path: PipePath | None = None


class Words:
    """Words over a stream; whoever has none to say any more closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Self:
        """Over a connected Unix socket, which is owned from here on."""
        try:
            return cls(*await asyncio.open_unix_connection(sock=connected, limit=LINE_MAX_BYTES))
        except BaseException:
            connected.close()
            raise

    def say(self, word: Word, detail: str = "", path: PipePath | None = None) -> None:
        """Say something; it is lost where the other process is gone."""
        said = Said(word=word, detail=detail[:512], path=path)
        with contextlib.suppress(OSError):
            self._writer.write(said.model_dump_json().encode() + b"\n")

    async def hear(self) -> Said | None:
        """What the other process says next; None where it says nothing more."""
        try:
            line = await self._reader.readuntil()
            return Said.model_validate_json(line)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            return None

    def close(self) -> None:
        """Say nothing more; idempotent."""
        self._writer.close()


def check_user(connected: socket.socket) -> None:
    """Refused where the process at the other end is another user's."""
    if not is_of_this_user(connected):
        raise Refused("the process at the other end is another user's")


def send_arrival(connected: socket.socket, arrival: Arrival, given: socket.socket) -> None:
    """Send one, with a socket, as the first message. OSError where the other process is gone."""
    line = arrival.model_dump_json().encode() + b"\n"
    if len(line) > LINE_MAX_BYTES or socket.send_fds(connected, [line], [given.fileno()]) != len(line):
        raise Refused("an arrival that is too long")


async def receive_arrival(connected: socket.socket) -> tuple[Arrival, socket.socket]:
    """The first message and its socket, non-blocking. Refused, or OSError. The caller bounds the time."""
    line, given = b"", list[socket.socket]()
    try:
        while not line.endswith(b"\n"):
            await _readable(connected)
            flags = socket.MSG_CMSG_CLOEXEC
            data, descriptors, _, _ = socket.recv_fds(connected, LINE_MAX_BYTES, _DESCRIPTORS_MAX, flags)
            given += [socket.socket(fileno=descriptor) for descriptor in descriptors]
            line += data
            if not data or len(line) > LINE_MAX_BYTES:
                raise Refused("no arrival")
        arrival = Arrival.model_validate_json(line)
        if len(given) != 1 or given[0].type != socket.SOCK_STREAM or (arrival.proof is None) == (arrival.path is None):
            raise Refused("no arrival of one stream")
    except BaseException as error:
        for each in given:
            each.close()
        if isinstance(error, ValueError):
            raise Refused("no arrival") from None
        raise
    given[0].setblocking(False)
    return arrival, given[0]


async def _readable(opened: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(opened, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(opened)
