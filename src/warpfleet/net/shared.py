"""One UDP socket for attempts and pipes with many peers: who gets which of the datagrams that come."""

import asyncio
import contextlib
from collections import deque

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import attempt_in, is_frame
from warpfleet.net.interfaces import ConnectionLost, DatagramSocket
from warpfleet.net.quic_engine import addressee, connection_id
from warpfleet.net.sockets import Inbox

# What overtakes the signal that its attempt begins with: two datagrams each, of dozens of attempts, as a path carries
# them in one piece. 192 KB at most.
_UNCLAIMED_MAX = 128
_UNCLAIMED_MAX_BYTES = 1500
_NAMES_MAX = 4  # its attempt's, that of a pipe which moves to it, and as many that the peer gives itself


class SharedSocket:
    """A UDP socket that is lent out. It is read from its making on. A frame goes to the attempt that it names, what is
    in a tunnel to whom that belongs by its connection id (RFC 9000 section 5.1), from wherever they come; what is for
    nobody is kept a while, unread, and never answered."""

    def __init__(self, socket: DatagramSocket) -> None:
        self.socket = socket
        self._loans: dict[bytes, Loan] = {}
        self._unclaimed: deque[tuple[bytes, bytes, Endpoint]] = deque(maxlen=_UNCLAIMED_MAX)
        self._reading = asyncio.create_task(self._read())

    def lend(self, attempt_id: str) -> "Loan | None":
        """A view of the socket for one attempt. None where the attempt has one, or the socket is closed."""
        name = connection_id(attempt_id)
        if name in self._loans or self._reading.done():
            return None
        loan = Loan(self)
        self._claim(name, loan)
        return loan

    def close(self) -> None:
        """Close the socket; whoever has a loan hears nothing any more. Idempotent."""
        self._reading.cancel()
        self.socket.close()
        for loan in list(self._loans.values()):
            loan.close()

    def send_to(self, data: bytes, remote: Endpoint, loan: "Loan") -> None:
        """Send for a loan, which gets what comes by that name: a pipe that has moved here keeps that of its attempt."""
        self._claim(_name_in(data), loan)
        self.socket.send_to(data, remote)

    def take_back(self, loan: "Loan") -> None:
        """A loan is closed."""
        self._loans = {name: owner for name, owner in self._loans.items() if owner is not loan}

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionLost):
            while True:
                data, source = await self.socket.receive()
                name = _name_in(data)
                if loan := self._loans.get(name):
                    loan.arrive(data, source)
                elif name and len(data) <= _UNCLAIMED_MAX_BYTES:
                    self._unclaimed.append((name, data, source))
        self.close()

    def _claim(self, name: bytes, loan: "Loan") -> None:
        if not name or name in self._loans or loan.names == _NAMES_MAX:
            return
        loan.names += 1
        self._loans[name] = loan
        for unclaimed in [early for early in self._unclaimed if early[0] == name]:
            self._unclaimed.remove(unclaimed)
            loan.arrive(*unclaimed[1:])


def _name_in(data: bytes) -> bytes:
    """Whose a datagram is: both ends call the tunnel of an attempt by the same connection id."""
    return connection_id(attempt_in(data)) if is_frame(data) else addressee(data)


class Loan:
    """One attempt's view of a shared socket, as a datagram socket of its own."""

    through = None

    def __init__(self, shared: SharedSocket) -> None:
        self.packets_sent = 0
        self.names = 0
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
