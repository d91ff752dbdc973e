"""The interfaces of a network. Plugins see only these: the kernel's network and the simulated one both have them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.errors import WarpfleetError


class ConnectionLost(WarpfleetError):
    """The stream or the pipe has ended: closed by the peer, reset, or closed here. A pipe that its peer has closed in
    good order is read to its end instead."""


class StreamEnded(ConnectionLost):
    """The peer has sent all that it had to say, and then FIN."""


class ConnectRefused(WarpfleetError):
    """The other host answered the SYN with a RST."""


class Unreachable(WarpfleetError):
    """The network has no route, or answered with an ICMP error; also: the vantage has no address of the family."""


class Counted(Protocol):
    """Something that sends packets, and knows how many; also after it was closed."""

    @property
    def packets_sent(self) -> int | None:
        """How many packets have been handed to the network: datagrams, or TCP segments with SYN, retransmissions and
        pure ACKs. None where the kernel does not tell."""


Count = Callable[[Counted], None]
"""Takes something whose packets are to be counted."""


def uncounted(_: Counted) -> None:
    """For whoever does not count."""


def packets_sent_by(senders: Iterable[Counted]) -> int | None:
    """The sum of their packets; None where one of them does not know."""
    total = 0
    for sender in senders:
        count = sender.packets_sent
        if count is None:
            return None
        total += count
    return total


class DatagramSocket(Counted, Protocol):
    """A UDP socket at a vantage, or a relayed transport address that behaves like one; then what it exchanges with its
    server is counted, too."""

    @property
    def local(self) -> Endpoint:
        """The bound (or relayed) transport address."""

    @property
    def through(self) -> Endpoint | None:
        """The TURN server that relays; None for a socket of this host."""

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram. What the network does with it is not known; errors it reports are swallowed like loss."""

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram and where it came from. ConnectionLost once the socket is closed."""

    def close(self) -> None:
        """Close; idempotent. A pending `receive` raises ConnectionLost."""


class Relay(DatagramSocket, Protocol):
    """A relayed transport address. Only what comes from an address that something was sent to is let in, or that was
    permitted."""

    def permit(self, ip: str) -> None:
        """Let in what comes from an address of its family, as soon as the server has heard of it."""


class ByteStream(Counted, Protocol):
    """A connected TCP stream (or one that looks like it)."""

    @property
    def local(self) -> Endpoint:
        """The local transport address."""

    @property
    def remote(self) -> Endpoint:
        """The remote transport address."""

    async def write(self, data: bytes) -> None:
        """Write all of `data`. ConnectionLost where the stream has ended."""

    async def read(self, max_bytes: int) -> bytes:
        """At least one byte and at most `max_bytes`. StreamEnded at the end of the stream, ConnectionLost where it was
        reset, or closed here."""

    async def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. ConnectionLost where the stream ends before."""

    def write_eof(self) -> None:
        """Say that no more follows (FIN), behind what was written. ConnectionLost where the stream has ended."""

    def reset_on_close(self) -> None:
        """From now on `close`, and where the kernel has the stream the death of this process, too, resets it (ABORT of
        RFC 9293 section 3.10.5), unless `write_eof` has come before."""

    def close(self) -> None:
        """Close; idempotent."""


class Listener(Protocol):
    """A listening TCP socket."""

    @property
    def local(self) -> Endpoint:
        """The bound transport address."""

    async def accept(self) -> ByteStream:
        """The next inbound stream. ConnectionLost once the listener is closed."""

    def close(self) -> None:
        """Close; idempotent."""


class Network(Protocol):
    """Everything a plugin may do with the network of one node's vantage."""

    def interfaces(self) -> Sequence[Interface]:
        """The addresses of the vantage, loopback and link-local ones included."""

    async def open_udp(self, af: int, port: int = 0) -> DatagramSocket:
        """A bound UDP socket of family 4 or 6. Unreachable where the vantage has none."""

    async def connect_tcp(
        self, remote: Endpoint, *, timeout_s: float, local_port: int | None = None, hop_limit: int | None = None
    ) -> ByteStream:
        """Connect. ConnectRefused, Unreachable, or TimeoutError.

        `local_port` is shared with a listener and with other streams from it; OSError where others have it. The
        first SYN passes at most `hop_limit` routers, which opens the filters up to there."""

    async def listen_tcp(self, endpoint: Endpoint, *, shared: bool = False) -> Listener:
        """Listen at a local transport address; the unspecified address and port 0 mean any. OSError if taken.

        A `shared` port is one that `connect_tcp` may connect from."""

    async def external_endpoint(self, socket: DatagramSocket, *, timeout_s: float) -> Endpoint:
        """The server-reflexive address of a UDP socket (RFC 8489). TimeoutError where no STUN server answers."""

    async def external_tcp_endpoint(self, af: int, local_port: int, *, timeout_s: float) -> Endpoint:
        """The server-reflexive address of a TCP port that `connect_tcp` and `listen_tcp` share (RFC 8489). TimeoutError
        where no STUN server answers over TCP."""

    async def allocate_relay(self, af: int, *, timeout_s: float) -> "Relay":
        """A relayed transport address (RFC 8656): `local` is the relayed address. TimeoutError, ConnectRefused,
        Unreachable, or RelayRefused. Whether the server is reached over UDP or TCP is the network's business."""


class CountableNetwork(Network, Protocol):
    """A network that also hands over what it tried in vain, so that whoever counts packets misses none."""

    async def connect_tcp(
        self,
        remote: Endpoint,
        *,
        timeout_s: float,
        local_port: int | None = None,
        hop_limit: int | None = None,
        discard: Count = uncounted,
    ) -> ByteStream:
        """As above; `discard` gets a connect that failed or was cancelled."""

    async def external_tcp_endpoint(
        self, af: int, local_port: int, *, timeout_s: float, discard: Count = uncounted
    ) -> Endpoint:
        """As above; `discard` gets each stream to a server."""

    async def allocate_relay(self, af: int, *, timeout_s: float, discard: Count = uncounted) -> "Relay":
        """As above; `discard` gets each allocation, and each connect for one, that is not returned."""


class PortLease(Protocol):
    """A TCP port of ours that a gateway lets strangers in to while it is willing, until the network is closed."""

    async def settled(self) -> None:
        """Return once a gateway has granted the port or refused it, or as soon as there seems to be none."""

    async def changed(self) -> Endpoint | None:
        """Wait until the external endpoint is another than was told before, which at first is None: not mapped."""


class NodeNetwork(CountableNetwork, Protocol):
    """A network as whoever serves the node owns it."""

    def map_port(self, port: int, af: int) -> PortLease:
        """Have a TCP port of the vantage mapped (PCP, NAT-PMP, UPnP-IGD) where it stands behind a gateway that does
        that; over IPv6, let through its firewall."""

    def avoid_udp(self) -> None:
        """UDP is known not to get out: relays need not be asked for over it."""

    async def close(self) -> None:
        """Wait for what runs behind the scenes: closed relays that delete their allocations, mapped ports that are
        released."""


class RelayRefused(WarpfleetError):
    """The TURN server answered with an error (RFC 8656 section 18); the message has its code."""


@dataclass(frozen=True, slots=True)
class PipePath:
    """What carries a pipe's bytes: TCP or UDP, direct or `relayed`; `through` which TURN server, where that is ours.
    They are `sealed`, unless both ends want them plain."""

    transport: Transport
    local: Endpoint
    remote: Endpoint
    relayed: bool = False
    through: Endpoint | None = None
    sealed: bool = True

    def __str__(self) -> str:
        plain = "" if self.sealed else ", not sealed"
        relayed = f", relayed through {self.through}" if self.through else ", relayed" if self.relayed else ""
        return f"{self.transport}{relayed}{plain}: {self.local} -> {self.remote}"


class Pipe(Protocol):
    """The connected duplex endpoint that a winning attempt hands over: a stream of bytes, sealed between two nodes that
    have proved themselves (TLS 1.3 over TCP, QUIC over UDP) unless `path` says otherwise. One task may send and one
    receive at a time."""

    @property
    def peer(self) -> str:
        """The name of the proved peer."""

    @property
    def path(self) -> PipePath:
        """What carries the bytes now."""

    @property
    def provisional(self) -> bool:
        """Whether the peer is not known yet to have agreed to this pipe, which may be sent on all the same."""

    async def agreed(self) -> None:
        """Return once it is. ConnectionLost where that takes longer than seconds."""

    async def send(self, data: bytes) -> None:
        """Send any number of bytes; waits while the peer does not read. ConnectionLost once the pipe has ended. A send
        that is cancelled breaks it: nobody knows how much of that the peer has."""

    async def send_eof(self) -> None:
        """Send no more; what the peer sends still arrives. The peer reads all that was sent before, and then the end.
        Idempotent. ConnectionLost once the pipe has ended."""

    async def recv(self, max_bytes: int = ...) -> bytes:
        """At least one byte and at most `max_bytes`. Nothing, b"", where the peer has sent its last byte and said so;
        ConnectionLost where the pipe broke before that, or was closed here."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> bytes:
        """As `recv`, of which the end ends the iteration."""

    async def close(self) -> None:
        """Close both ends; idempotent. What was sent before is delivered, where the peer takes it within seconds."""

    async def abort(self) -> None:
        """Break it off: the peer does not take what it has read for all that was sent, but has ConnectionLost. Nothing,
        where it is closed already."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
