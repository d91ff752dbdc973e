"""What the pipes share: whose they are, where they lead, and how their bytes are awaited."""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from warpfleet.net.interfaces import ConnectionLost, PipePath

RECV_BYTES = 262_144  # what one `recv` returns at most, unless it is asked for less


class BasePipe(ABC):
    """A stream of bytes to a proved peer (see `net.interfaces.Pipe`)."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._closing: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def path(self) -> PipePath:
        """What carries the bytes now."""

    @property
    def provisional(self) -> bool:
        """Whether the peer is not known yet to have agreed."""
        return False

    async def agreed(self) -> None:  # noqa: B027 - there is nothing to wait for where it has agreed before
        """Return once it is."""

    async def send(self, data: bytes) -> None:
        """Send any number of bytes; waits while the peer does not read. ConnectionLost once the pipe has ended. A send
        that is cancelled breaks it: nobody knows how much of that the peer has."""
        try:
            await self._send(data)
        except asyncio.CancelledError:
            self._break(ConnectionLost("a send was cancelled"))
            raise

    @abstractmethod
    async def send_eof(self) -> None:
        """Say that no more will be sent."""

    async def recv(self, max_bytes: int = RECV_BYTES) -> bytes:
        """At least one byte; none at the end. ConnectionLost where the pipe broke before, or was closed here."""
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be 1 at least, not {max_bytes}")
        if self._closing:
            raise ConnectionLost("closed here")
        return await self._recv(max_bytes)

    async def close(self) -> None:
        """Close both ends, once the peer has what was sent, or has stopped taking it. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def abort(self) -> None:
        """Break it off: the peer's reader has ConnectionLost. Nothing, where it is closed already."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        await asyncio.shield(self._closing)

    @abstractmethod
    async def _send(self, data: bytes) -> None:
        """Send bytes."""

    @abstractmethod
    async def _recv(self, max_bytes: int) -> bytes:
        """Receive some bytes, or none at the end."""

    @abstractmethod
    def _break(self, reason: ConnectionLost) -> None:
        """From now on nothing is sent, and so the end is no good one."""

    @abstractmethod
    async def _close(self) -> None:
        """End in good order; `_end` is the last of it."""

    @abstractmethod
    async def _end(self) -> None:
        """Let go of what the pipe is made of."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if data := await self.recv():
            return data
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<pipe to {self.peer} over {self.path}>"
