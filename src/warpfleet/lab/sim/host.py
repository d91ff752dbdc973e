"""A simulated host: its addresses, its UDP sockets, its TCP, and the line that it hangs on."""

import asyncio
import random
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from warpfleet.core.endpoint import Endpoint, Interface, Scope, scope_of
from warpfleet.lab.sim.internet import Line, Router
from warpfleet.lab.sim.packet import Packet, Segment
from warpfleet.lab.sim.ports import Ports, covers
from warpfleet.lab.sim.streams import TcpStack
from warpfleet.net.interfaces import Unreachable
from warpfleet.net.sockets import Inbox

_LOOPBACK = (Interface("lo", "127.0.0.1", 8), Interface("lo", "::1", 128))


class SimUdpSocket:
    """A bound UDP socket."""

    through = None

    def __init__(self, host: "Host", local: Endpoint) -> None:
        self._host = host
        self._local = local
        self._inbox = Inbox()
        self._taps: list[Callable[[bytes, Endpoint], bool]] = []
        self._packets_sent = 0

    @property
    def local(self) -> Endpoint:
        """The bound transport address."""
        return self._local

    @property
    def packets_sent(self) -> int:
        """How many datagrams have left."""
        return self._packets_sent

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram; one of a family that the host does not have is lost."""
        if self._inbox.closed or remote.af != self._local.af:
            return
        self._packets_sent += 1
        self._host.send(Packet(self._host.source(self._local), remote, data))

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram and where it came from. ConnectionLost once the socket is closed."""
        return await self._inbox.get()

    def tap(self, take: Callable[[bytes, Endpoint], bool]) -> Callable[[], None]:
        """Show each datagram to `take` first, which returns True for those it keeps. Returns what undoes it."""
        self._taps.append(take)
        return lambda: self._taps.remove(take)

    def close(self) -> None:
        """Close; idempotent. A pending `receive` raises ConnectionLost."""
        if not self._inbox.closed:
            self._inbox.close()
            self._host.forget(self)

    def arrive(self, data: bytes, source: Endpoint) -> None:
        """Take a datagram from the network."""
        if not any(take(data, source) for take in tuple(self._taps)):
            self._inbox.put(data, source)


class Host:
    """A host with these addresses, loopback ones apart. `line` is there once the host is attached to a network."""

    line: Line
    gateway: Router | None = None  # the router that it stands behind

    def __init__(self, addresses: Sequence[Interface], rng: random.Random) -> None:
        self.interfaces = (*_LOOPBACK, *addresses)
        self.tcp = TcpStack(self.send, self.address, rng)
        self._addresses = {interface.ip for interface in self.interfaces}
        self._ports = Ports(rng)
        self._sockets: dict[SimUdpSocket, Callable[[], None]] = {}

    def address(self, af: int) -> str:
        """The address that packets of a family leave from. Unreachable where it has none."""
        for interface in self.interfaces[len(_LOOPBACK) :]:
            if Endpoint(interface.ip, 0).af == af:
                return interface.ip
        raise Unreachable(f"the host has no IPv{af}")

    def source(self, local: Endpoint) -> Endpoint:
        """Where a packet of a socket bound to `local` comes from."""
        return Endpoint(self.address(local.af), local.port) if ip_address(local.ip).is_unspecified else local

    def open_udp(self, local: Endpoint) -> SimUdpSocket:
        """A UDP socket. Unreachable where the host has no such family, OSError where the port is taken."""
        self.address(local.af)
        binding = self._ports.bind(local)
        socket = SimUdpSocket(self, binding.local)
        self._sockets[socket] = lambda: self._ports.release(binding)
        return socket

    def forget(self, socket: SimUdpSocket) -> None:
        """A UDP socket is closed."""
        self._sockets.pop(socket)()

    def send(self, packet: Packet) -> None:
        """Send a packet on its way; what is for the host itself does not leave it."""
        ip = packet.destination.ip
        if ip in self._addresses or scope_of(ip) is Scope.LOOPBACK:
            asyncio.get_running_loop().call_soon(self.arrive, packet)
        else:
            self.line.up(packet)

    def arrive(self, packet: Packet) -> None:
        """Take a packet from the network."""
        if isinstance(packet.payload, Segment):
            self.tcp.arrive(packet, packet.payload)
            return
        for socket in self._sockets:
            local, target = socket.local, packet.destination
            if (local.af, local.port) == (target.af, target.port) and covers(local.ip, target.ip):
                socket.arrive(packet.payload, packet.source)
                return
