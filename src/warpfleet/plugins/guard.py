"""The network as an attempt gets it: what it may send to is checked, and what it uses is counted."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from warpfleet.core.combo import Reason, RouteType
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.targets import Allowance, Budget, may_be_peer
from warpfleet.net.interfaces import (
    ByteStream,
    Count,
    CountableNetwork,
    Counted,
    DatagramSocket,
    Listener,
    Relay,
    packets_sent_by,
)
from warpfleet.plugins.attempt_failed import AttemptFailed

_TARGETS_MAX = 8  # distinct addresses per attempt: a peer has a handful


class SharedBudget(Budget):
    """A budget of many attempts, which take turns to book."""

    def __init__(self, allowance: Allowance) -> None:
        super().__init__(allowance)
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    async def wait_and_book(self) -> None:
        """Book what most attempts send, once there is enough: first come, first served."""
        async with self._turn:
            while wait_s := self.book(asyncio.get_running_loop().time()):
                self._given_back.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._given_back.wait()

    def give_back(self, packets: int) -> None:
        """The same, and whoever waits looks again."""
        super().give_back(packets)
        self._given_back.set()


class GuardedNetwork:
    """A network that keeps one attempt within its route types and its budget (AttemptFailed where it would not).

    `alias` is the peer's loopback alias, `budget` what all attempts with this peer share, and `towards` what those with
    all peers do that send to an address."""

    def __init__(
        self,
        network: CountableNetwork,
        routes: Sequence[RouteType],
        alias: str,
        budget: SharedBudget,
        towards: Callable[[str], Budget],
    ) -> None:
        self._network = network
        self._routes = routes
        self._alias = alias
        self._budget = budget
        self._towards = towards
        self._booked = 0
        self._interfaces = network.interfaces() if RouteType.NIC in routes else ()
        self._targets: dict[str, Budget] = {}
        self._counted: list[Counted] = []
        self.sockets = 0
        """How many sockets the attempt has opened."""

    @property
    def packets_sent(self) -> int | None:
        """How many datagrams and TCP segments the attempt has sent, those to STUN and TURN servers included, and those
        of sockets that came to nothing. None where the kernel does not tell."""
        return packets_sent_by(self._counted)

    def count(self, sender: Counted) -> None:
        """Count the packets of something that the attempt uses, or has used."""
        self._counted.append(sender)

    async def book(self) -> None:
        """Wait until the budget has enough for what most attempts send, and keep that."""
        await self._budget.wait_and_book()
        self._booked = self._budget.booked

    def give_back(self) -> None:
        """Leave what was booked and not sent to other attempts."""
        self._budget.give_back(self._booked)
        self._booked = 0

    def settle(self) -> None:
        """Let go of what was counted, once the last count was read: a pipe lives no longer than its holder wants."""
        self._counted.clear()

    def interfaces(self) -> Sequence[Interface]:
        return self._network.interfaces()

    async def open_udp(self, af: int, port: int = 0) -> DatagramSocket:
        socket = await self._network.open_udp(af, port)
        self.sockets += 1
        return self.guard(socket)

    async def connect_tcp(
        self, remote: Endpoint, *, timeout_s: float, local_port: int | None = None, hop_limit: int | None = None
    ) -> ByteStream:
        self._check(remote)
        self.sockets += 1
        stream = await self._network.connect_tcp(
            remote, timeout_s=timeout_s, local_port=local_port, hop_limit=hop_limit, discard=self.count
        )
        self.count(stream)
        return stream

    async def listen_tcp(self, endpoint: Endpoint, *, shared: bool = False) -> Listener:
        self.sockets += 1
        return CountedListener(await self._network.listen_tcp(endpoint, shared=shared), self.count)

    async def external_endpoint(self, socket: DatagramSocket, *, timeout_s: float) -> Endpoint:
        return await self._network.external_endpoint(self.release(socket), timeout_s=timeout_s)

    async def external_tcp_endpoint(self, af: int, local_port: int, *, timeout_s: float) -> Endpoint:
        self.sockets += 1
        return await self._network.external_tcp_endpoint(af, local_port, timeout_s=timeout_s, discard=self.count)

    async def allocate_relay(self, af: int, *, timeout_s: float) -> Relay:
        relay = await self._network.allocate_relay(af, timeout_s=timeout_s, discard=self.count)
        self.sockets += 1
        self.count(relay)
        return GuardedRelay(relay, self._check, self._permits)

    def release(self, socket: DatagramSocket) -> DatagramSocket:
        """The bare socket: the peer that proved itself on it wants what comes."""
        return socket.inner if isinstance(socket, GuardedSocket) else socket

    def guard(self, socket: DatagramSocket) -> "GuardedSocket":
        """The socket, kept within the targets and the budget, and counted."""
        self.count(socket)
        return GuardedSocket(socket, self._check, self._permits)

    def _permits(self, remote: Endpoint) -> bool:
        return any(may_be_peer(remote.ip, route, self._interfaces, self._alias) for route in self._routes)

    def _check(self, remote: Endpoint) -> None:
        if remote.ip not in self._targets:
            if not self._permits(remote):
                raise AttemptFailed(Reason.TARGET_FORBIDDEN, f"{remote.ip} is no target for {', '.join(self._routes)}")
            if len(self._targets) >= _TARGETS_MAX:
                raise AttemptFailed(Reason.BUDGET_SPENT, f"more than {_TARGETS_MAX} target addresses")
            self._targets[remote.ip] = self._towards(remote.ip)
        now_s = asyncio.get_running_loop().time()
        if not self._booked:
            if not self._budget.spend(now_s):
                raise AttemptFailed(Reason.BUDGET_SPENT, "too many packets for one peer")
            self._booked = 1
        if not self._targets[remote.ip].spend(now_s):
            raise AttemptFailed(Reason.BUDGET_SPENT, f"too many packets for {remote.ip}")
        self._booked -= 1


class GuardedSocket:
    """A datagram socket that asks before it sends, and hears nothing from where it may not send to."""

    def __init__(
        self, inner: DatagramSocket, check: Callable[[Endpoint], None], permits: Callable[[Endpoint], bool]
    ) -> None:
        self.inner = inner
        self._check = check
        self._permits = permits

    @property
    def local(self) -> Endpoint:
        return self.inner.local

    @property
    def through(self) -> Endpoint | None:
        return self.inner.through

    @property
    def packets_sent(self) -> int | None:
        return self.inner.packets_sent

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        self._check(remote)
        self.inner.send_to(data, remote)

    async def receive(self) -> tuple[bytes, Endpoint]:
        while True:
            data, source = await self.inner.receive()
            if self._permits(source):
                return data, source

    def close(self) -> None:
        self.inner.close()


class GuardedRelay(GuardedSocket):
    """A relayed address that lets nobody in whom it may not send to."""

    def __init__(self, inner: Relay, check: Callable[[Endpoint], None], permits: Callable[[Endpoint], bool]) -> None:
        super().__init__(inner, check, permits)
        self._relay = inner

    def permit(self, ip: str) -> None:
        if self._permits(Endpoint(ip, 0)):
            self._relay.permit(ip)


class CountedListener:
    """A listening socket whose streams are counted when they are accepted."""

    def __init__(self, inner: Listener, count: Count) -> None:
        self._inner = inner
        self._count = count

    @property
    def local(self) -> Endpoint:
        return self._inner.local

    async def accept(self) -> ByteStream:
        stream = await self._inner.accept()
        self._count(stream)
        return stream

    def close(self) -> None:
        self._inner.close()
