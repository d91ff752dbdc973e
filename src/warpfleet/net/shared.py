"""One UDP socket for attempts and pipes with many peers: who gets which of the datagrams that come."""

import asyncio
import contextlib

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import Frame, ProofFailed, is_frame
from warpfleet.net.interfaces import ConnectionLost, DatagramSocket
from warpfleet.net.sockets import Inbox


class SharedSocket:
    """A UDP socket that is lent out. It is read from its making on; what is for no loan is ignored."""

    def __init__(self, socket: DatagramSocket) -> None:
        self.socket = socket
        self._loans: dict[str, Loan] = {}
        self._owners: dict[Endpoint, Loan] = {}
        self._reading = asyncio.create_task(self._read())

    def lend(self, attempt_id: str, remote: Endpoint) -> "Loan | None":
        """A view of the socket for one attempt that begins with `remote`. None where another loan speaks with it, since
        the tunnels of two could not be told apart."""
        if attempt_id in self._loans or remote in self._owners or self._reading.done():
            return None
        loan = self._loans[attempt_id] = Loan(self, attempt_id)
        self._owners[remote] = loan
        return loan

    def close(self) -> None:
        """Close the socket; whoever has a loan hears nothing any more. Idempotent."""
        self._reading.cancel()
        self.socket.close()
        for loan in list(self._loans.values()):
            loan.close()

    def send_to(self, data: bytes, remote: Endpoint, loan: "Loan") -> None:
        """Send for a loan, which gets the answers unless another one speaks with `remote` already."""
        self._owners.setdefault(remote, loan)
        self.socket.send_to(data, remote)

    def take_back(self, loan: "Loan") -> None:
        """A loan is closed."""
        del self._loans[loan.attempt_id]
        self._owners = {remote: owner for remote, owner in self._owners.items() if owner is not loan}

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while True:
                data, source = await self.socket.receive()
                if loan := self._for(data, source):
                    loan.arrive(data, source)
        self.close()

    def _for(self, data: bytes, source: Endpoint) -> "Loan | None":
        """A frame names its attempt, from wherever it comes. What is in a tunnel, and frames of a pipe that has moved
        here, show nothing but their source."""
        owner = self._owners.get(source)
        if not is_frame(data):
            return owner
        try:
            return self._loans.get(Frame.parse(data).attempt_id, owner)
        except ProofFailed:
            return None


class Loan:
    """One attempt's view of a shared socket, as a datagram socket of its own."""

    through = None

    def __init__(self, shared: SharedSocket, attempt_id: str) -> None:
        self.attempt_id = attempt_id
        self.packets_sent = 0
        self._shared = shared
        self._inbox = Inbox()

    @property
    def local(self) -> Endpoint:
        """The bound transport address."""
        return self._shared.socket.local

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram."""
        if not self._inbox.closed:
            self.packets_sent += 1
            self._shared.send_to(data, remote, self)

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram and where it came from. ConnectionLost once it is closed, or the socket is."""
        return await self._inbox.get()

    def arrive(self, data: bytes, source: Endpoint) -> None:
        """Take a datagram that is for this attempt."""
        self._inbox.put(data, source)

    def close(self) -> None:
        """Give the socket back, which stays open; idempotent."""
        if not self._inbox.closed:
            self._inbox.close()
            self._shared.take_back(self)
