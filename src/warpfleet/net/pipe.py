"""Pipes: what a winning attempt hands over, on top of a stream or a datagram socket whose ends are proved."""

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import Event, Handshake, ProofFailed
from warpfleet.net.interfaces import ByteStream, ConnectionLost, DatagramSocket

MESSAGE_MAX_BYTES = 1200  # fits the smallest IPv6 MTU (1,280) with the headers of IP, UDP and a TURN channel
_READ_MAX_BYTES = 65536
_DATA_PREFIX = b"\0"  # sets messages apart from late frames of the handshake, which start with their magic
_CLOSE_REPEATS = 2  # one lost datagram should not leave the peer with an open pipe


class BasePipe(ABC):
    """What the pipes share: whose they are, where they lead, and how they end."""

    transport: Transport

    def __init__(self, *, peer: str, local: Endpoint, remote: Endpoint, relayed: bool) -> None:
        self.peer = peer
        self.local = local
        self.remote = remote
        self.relayed = relayed

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send bytes (TCP) or one message (UDP)."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Receive some bytes (TCP) or one message (UDP)."""

    @abstractmethod
    async def close(self) -> None:
        """Close both ends; idempotent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        relayed = ", relayed" if self.relayed else ""
        return f"<pipe to {self.peer} over {self.transport}{relayed}: {self.local} -> {self.remote}>"


class StreamPipe(BasePipe):
    """A pipe over TCP: a byte stream."""

    transport = Transport.TCP

    def __init__(self, stream: ByteStream, *, peer: str) -> None:
        super().__init__(peer=peer, local=stream.local, remote=stream.remote, relayed=False)
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.write(data)

    async def receive(self) -> bytes:
        return await self._stream.read(_READ_MAX_BYTES)

    async def close(self) -> None:
        self._stream.close()


class DatagramPipe(BasePipe):
    """A pipe over UDP, direct or through a relay: messages, of which some may be lost, repeated or reordered.

    Only datagrams from the proved endpoint are taken. The handshake stays at hand, since the peer's last frames may
    have been lost and are then answered again.
    """

    transport = Transport.UDP

    def __init__(
        self, socket: DatagramSocket, remote: Endpoint, handshake: Handshake, *, relayed: bool = False
    ) -> None:
        super().__init__(peer=handshake.peer.name, local=socket.local, remote=remote, relayed=relayed)
        self._socket = socket
        self._handshake = handshake
        self._closed = False

    async def send(self, data: bytes) -> None:
        if self._closed:
            raise ConnectionLost("the pipe is closed")
        if len(data) > MESSAGE_MAX_BYTES:
            raise ValueError(f"a message has at most {MESSAGE_MAX_BYTES} bytes, not {len(data)}")
        self._socket.send_to(_DATA_PREFIX + data, self.remote)

    async def receive(self) -> bytes:
        while True:
            data, source = await self._socket.receive()
            if source != self.remote:
                continue
            if data.startswith(_DATA_PREFIX):
                return data[len(_DATA_PREFIX) :]
            self._digest(data)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in range(_CLOSE_REPEATS):
            self._socket.send_to(self._handshake.close(), self.remote)
        # A relayed socket hands its datagrams to the loop: let them go before the socket does.
        await asyncio.sleep(0)
        self._socket.close()

    def _digest(self, data: bytes) -> None:
        try:
            received = self._handshake.receive(data)
        except ProofFailed:
            return
        if received.reply:
            self._socket.send_to(received.reply, self.remote)
        if received.event is Event.CLOSED:
            self._closed = True
            self._socket.close()
            raise ConnectionLost("the peer closed the pipe")
