"""What arrives for one attempt, until its plugin takes it."""

import asyncio
from dataclasses import dataclass

from warpfleet.core.combo import Reason
from warpfleet.net.interfaces import ByteStream, Count, uncounted
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.attempt_messages import AttemptMessage, M

_INBOX_MAX_ITEMS = 64  # an attempt exchanges a handful of messages; more is a peer that misbehaves


@dataclass(frozen=True, slots=True)
class InboundStream:
    """A TCP stream that a trusted peer opened to one of our listeners, with the frame that it sent first."""

    stream: ByteStream
    first_frame: bytes

    def discard(self) -> None:
        """Close it: nobody waits for it."""
        self.stream.close()


class Inbox:
    """What arrives for one attempt: messages of the peer's side, and streams that it opened, each told to `count`."""

    def __init__(self, count: Count = uncounted) -> None:
        self._count = count
        self._messages: asyncio.Queue[AttemptMessage | AttemptFailed] = asyncio.Queue(_INBOX_MAX_ITEMS)
        self._streams: asyncio.Queue[InboundStream] = asyncio.Queue(_INBOX_MAX_ITEMS)
        self._closed = False

    def put_message(self, message: AttemptMessage) -> None:
        """Queue a message; one too many is dropped."""
        if not self._messages.full():
            self._messages.put_nowait(message)

    def put_failure(self, reason: Reason) -> None:
        """Let the next wait for a message fail."""
        if not self._messages.full():
            self._messages.put_nowait(AttemptFailed(reason))

    def put_stream(self, inbound: InboundStream) -> None:
        """Queue an inbound stream; one too many, or too late, is closed."""
        if self._closed or self._streams.full():
            inbound.stream.close()
        else:
            self._count(inbound.stream)
            self._streams.put_nowait(inbound)

    async def message(self, kind: type[M]) -> M:
        """The next message of a kind; others before it are dropped. AttemptFailed where ours could not be delivered."""
        while True:
            item = await self._messages.get()
            if isinstance(item, AttemptFailed):
                raise item
            if isinstance(item, kind):
                return item

    async def stream(self) -> InboundStream:
        """The next inbound stream."""
        return await self._streams.get()

    def close(self) -> None:
        """Close the streams that nobody took, and those that are still to come."""
        self._closed = True
        while not self._streams.empty():
            self._streams.get_nowait().stream.close()
