"""The network of one simulated host, as plugins see it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.lab.sim.host import Host, SimUdpSocket
from warpfleet.lab.sim.mapper import client_of
from warpfleet.lab.sim.streams import SimListener, SimStream
from warpfleet.lab.sim.turn import SimRelay
from warpfleet.net.interfaces import Count, DatagramSocket, Unreachable, uncounted
from warpfleet.net.portmap.client import GatewayClient
from warpfleet.net.portmap.lease import Lease
from warpfleet.net.racing import race
from warpfleet.net.reflexive import tcp_endpoint, udp_endpoint
from warpfleet.net.relay import STAGGER_S


@dataclass(frozen=True, slots=True)
class Services:
    """Where the servers of the simulated internet are."""

    stun: tuple[Endpoint, ...] = ()
    turn_udp: tuple[Endpoint, ...] = ()
    turn_tcp: tuple[Endpoint, ...] = ()


class SimNetwork:
    """Everything a node may do with its host's network; `net.interfaces.Network` says what each method promises.
    `chance` is from 0 to 1."""

    def __init__(self, host: Host, services: Services, chance: Callable[[], float]) -> None:
        self._host = host
        self._chance = chance
        self._gateways: dict[int, GatewayClient] = {}
        self._services = services
        self._udp_blocked = False

    def interfaces(self) -> Sequence[Interface]:
        """The addresses of the host, loopback ones included."""
        return self._host.interfaces

    async def open_udp(self, af: int, port: int = 0) -> SimUdpSocket:
        """A bound UDP socket. Unreachable where the host has no such family, OSError where the port is taken."""
        return self._host.open_udp(Endpoint("::" if af == 6 else "0.0.0.0", port))  # noqa: S104

    async def connect_tcp(
        self,
        remote: Endpoint,
        *,
        timeout_s: float,
        local_port: int | None = None,
        hop_limit: int | None = None,
        discard: Count = uncounted,
    ) -> SimStream:
        """Connect. ConnectRefused, Unreachable, or TimeoutError; `discard` gets a connect that failed.

        `local_port` is shared with a listener and with other streams from it; OSError where others have it. The
        first SYN passes at most `hop_limit` routers, which opens the filters up to there.
        """
        return await self._host.tcp.connect(
            remote, timeout_s=timeout_s, local_port=local_port, hop_limit=hop_limit, discard=discard
        )

    async def listen_tcp(self, endpoint: Endpoint, *, shared: bool = False) -> SimListener:
        """Listen at a local transport address; the unspecified address and port 0 mean any. OSError where it is taken.

        A `shared` port is one that `connect_tcp` may connect from.
        """
        return self._host.tcp.listen(endpoint, shared=shared)

    async def external_endpoint(self, socket: DatagramSocket, *, timeout_s: float) -> Endpoint:
        """The server-reflexive address of a UDP socket. TimeoutError where no STUN server answers.

        Datagrams that are no answer to it stay in the socket's queue. A relayed address is its own external one.
        """
        if not isinstance(socket, SimUdpSocket):
            return socket.local
        return await udp_endpoint(socket, self._services.stun, timeout_s=timeout_s)

    async def external_tcp_endpoint(
        self, af: int, local_port: int, *, timeout_s: float, discard: Count = uncounted
    ) -> Endpoint:
        """The server-reflexive address of a TCP port that `connect_tcp` or `listen_tcp` shares.

        TimeoutError where no STUN server answers over TCP; `discard` gets each stream to a server.
        """
        connect = functools.partial(self.connect_tcp, timeout_s=timeout_s, local_port=local_port, discard=discard)
        return await tcp_endpoint(connect, self._services.stun, af, timeout_s=timeout_s, discard=discard)

    async def allocate_relay(self, af: int, *, timeout_s: float, discard: Count = uncounted) -> SimRelay:
        """A relayed transport address: over UDP, and over TCP beside it soon after.

        TimeoutError, ConnectRefused, Unreachable, or RelayRefused; `discard` gets what was tried beside it.
        """

        async def close(relay: SimRelay) -> None:
            discard(relay)
            relay.close()

        over_udp = [functools.partial(SimRelay.over_udp, self._host, server) for server in self._services.turn_udp]
        over_tcp = [functools.partial(SimRelay.over_tcp, self._host, server) for server in self._services.turn_tcp]
        ways = [
            functools.partial(way, af, timeout_s=timeout_s, discard=discard)
            for way in (over_tcp if self._udp_blocked else [*over_udp, *over_tcp])
        ]
        if not ways:
            raise Unreachable("the laboratory has no TURN server that can be reached")
        return await race(ways, stagger_s=STAGGER_S, timeout_s=timeout_s, discard=close)

    def map_port(self, port: int, af: int) -> Lease:
        """Have a TCP port mapped by the router that the host stands behind."""
        if af not in self._gateways:
            self._gateways[af] = client_of(self._host, af, self._chance)
        return self._gateways[af].lease(port)

    def avoid_udp(self) -> None:
        """UDP is known not to get out: relays need not be asked for over it."""
        self._udp_blocked = True

    async def close(self) -> None:
        """Release what is mapped; what a relay has to say last is on its way when it is closed."""
        for gateway in self._gateways.values():
            await gateway.close()
        self._gateways.clear()
