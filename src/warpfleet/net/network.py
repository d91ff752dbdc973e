"""The kernel's network, as one vantage has it."""

import asyncio
import functools
from collections.abc import Sequence
from ipaddress import ip_address
from socket import SOCK_DGRAM, SOCK_STREAM

from warpfleet.configs.fleet import TurnServer
from warpfleet.core.endpoint import Endpoint, Interface, Scope, scope_of
from warpfleet.net import sockets
from warpfleet.net.interfaces import Count, DatagramSocket, uncounted
from warpfleet.net.portmap.client import GatewayClient, client_at, no_mappers
from warpfleet.net.portmap.lease import Lease
from warpfleet.net.reflexive import tcp_endpoint, udp_endpoint
from warpfleet.net.relay import Relays, RelaySocket
from warpfleet.net.sockets import TcpListener, TcpStream, UdpSocket
from warpfleet.net.vantage import Vantage


class KernelNetwork:
    """Everything a node may do with the network of its vantage; `interfaces.Network` says what each method promises."""

    def __init__(
        self, vantage: Vantage, *, stun_servers: Sequence[Endpoint] = (), turn_servers: Sequence[TurnServer] = ()
    ) -> None:
        self.vantage = vantage
        self.stun_servers = tuple(stun_servers)
        self.relays = Relays(vantage, turn_servers)
        self._gateways: dict[int, GatewayClient] = {}

    def interfaces(self) -> Sequence[Interface]:
        """The addresses of the vantage, loopback and link-local ones included."""
        return self.vantage.interfaces()

    async def open_udp(self, af: int, port: int = 0) -> UdpSocket:
        """A bound UDP socket. Unreachable where the vantage has no such family, OSError where the port is taken."""
        return UdpSocket(self.vantage.open(af, SOCK_DGRAM, port=port))

    async def connect_tcp(
        self,
        remote: Endpoint,
        *,
        timeout_s: float,
        local_port: int | None = None,
        hop_limit: int | None = None,
        discard: Count = uncounted,
    ) -> TcpStream:
        """Connect. ConnectRefused, Unreachable, or TimeoutError; `discard` gets a connect that failed.

        `local_port` is shared with a listener and with other streams from it; OSError where others have it. The
        first SYN passes at most `hop_limit` routers, which opens the filters up to there.
        """
        opened = self.vantage.open(remote.af, SOCK_STREAM, port=local_port, shared=local_port is not None)
        return await sockets.connect(opened, remote, timeout_s=timeout_s, hop_limit=hop_limit, discard=discard)

    async def listen_tcp(self, endpoint: Endpoint, *, shared: bool = False) -> TcpListener:
        """Listen at a local transport address; the unspecified address and port 0 mean any. OSError where it is taken.

        A `shared` port is one that `connect_tcp` may connect from.
        """
        ip = None if ip_address(endpoint.ip).is_unspecified else endpoint.ip
        return TcpListener(self.vantage.open(endpoint.af, SOCK_STREAM, port=endpoint.port, ip=ip, shared=shared))

    async def external_endpoint(self, socket: DatagramSocket, *, timeout_s: float) -> Endpoint:
        """The server-reflexive address of a UDP socket (RFC 8489). TimeoutError where no STUN server answers.

        Datagrams that are no answer to it stay in the socket's queue. A relayed address is its own external one.
        """
        if not isinstance(socket, UdpSocket):
            return socket.local
        return await udp_endpoint(socket, self.stun_servers, timeout_s=timeout_s)

    async def external_tcp_endpoint(
        self, af: int, local_port: int, *, timeout_s: float, discard: Count = uncounted
    ) -> Endpoint:
        """The server-reflexive address of a TCP port that `connect_tcp` or `listen_tcp` shares (RFC 8489).

        TimeoutError where no STUN server answers over TCP; `discard` gets each stream to a server.
        """
        connect = functools.partial(self.connect_tcp, timeout_s=timeout_s, local_port=local_port, discard=discard)
        return await tcp_endpoint(connect, self.stun_servers, af, timeout_s=timeout_s, discard=discard)

    async def allocate_relay(self, af: int, *, timeout_s: float, discard: Count = uncounted) -> RelaySocket:
        """A relayed transport address (RFC 8656). TimeoutError, ConnectRefused, Unreachable, or RelayRefused;
        `discard` gets what was tried beside the one that is returned."""
        return await self.relays.allocate(af, timeout_s=timeout_s, discard=discard)

    def map_port(self, port: int, af: int) -> Lease:
        """Have a TCP port mapped by the gateway of the vantage's default route.

        Nothing is sent where no STUN server is of the family, or only one of this machine: a mapping is worth as much
        as the external address that it must be at."""
        if af not in self._gateways:
            known = any(s.af == af and scope_of(s.ip) is not Scope.LOOPBACK for s in self.stun_servers)
            self._gateways[af] = client_at(self.vantage, af) if known else GatewayClient(no_mappers)
        return self._gateways[af].lease(port)

    def avoid_udp(self) -> None:
        """UDP is known not to get out: relays need not be asked for over it."""
        self.relays.udp_blocked = True

    async def close(self) -> None:
        """Wait for what runs behind the scenes: closed relays that delete their allocations, mapped ports that are
        released."""
        await asyncio.gather(self.relays.close(), *(gateway.close() for gateway in self._gateways.values()))
