"""One node as one plugin host serves it: the ports that the node's attempts are handed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from warpfleet.actors.values import NodeSpec
from warpfleet.core.combo import Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.net.handshake import Wishes
from warpfleet.net.interfaces import NodeNetwork
from warpfleet.net.network import KernelNetwork
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import AttemptFactory
from warpfleet.plugins.inbox import InboundStream

OwnRecord = Callable[[str], Awaitable[bytes]]
"""Asks for a node's signed record."""

LearnRecord = Callable[[str, bytes], Awaitable[bool]]
"""Offers a peer's signed record; whether it was accepted."""


def kernel_network(spec: NodeSpec) -> NodeNetwork:
    """The kernel's network, as the node's vantage has it."""
    return KernelNetwork(spec.vantage, stun_servers=spec.stun, turn_servers=spec.turn)


class OpenNode:
    """The ports of one node; `plugins.node_ports.NodePorts` says what each promises."""

    def __init__(
        self,
        spec: NodeSpec,
        roster: Mapping[bytes, PublicIdentity],
        on_stream: Callable[["OpenNode", InboundStream], None],
        own_record: OwnRecord,
        learn_record: LearnRecord,
        *,
        on_mapped: Callable[["OpenNode"], None],
        on_standing: Callable[["OpenNode"], None],
        network: NodeNetwork,
        now_s: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.network = network
        self.view = PeerView(name=spec.name, machine="")
        self.factory: AttemptFactory | None = None
        self.listeners: list[Endpoint] = []
        self.standing: dict[AddressFamily, int] = {}
        self._mappings: dict[Endpoint, Endpoint] = {}  # listener -> where strangers reach it
        self._expected: list[Callable[[], Awaitable[None]]] = []
        self._now_s = now_s
        self._clock_offset_s = 0.0
        self._roster = roster
        self._on_stream = on_stream
        self._own_record = own_record
        self._learn_record = learn_record
        self._on_mapped = on_mapped
        self._on_standing = on_standing
        self._viewed = asyncio.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self._callbacks: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def identity(self) -> Identity:
        return self.spec.identity

    @property
    def listen_ports(self) -> Sequence[int]:
        return self.spec.listen

    @property
    def wishes(self) -> Wishes:
        """What it wishes of every pipe."""
        return Wishes.PLAIN if self.spec.plain else Wishes.NONE

    def now_us(self) -> int:
        return self.true_us(int(self._now_s() * 1_000_000))

    def true_us(self, machine_us: int) -> int:
        """A time by this machine's clock, in microseconds since 1970, as NTP corrects it."""
        return machine_us + int(self._clock_offset_s * 1_000_000)

    def machine_us(self, true_us: int) -> int:
        """The other way round."""
        return true_us - int(self._clock_offset_s * 1_000_000)

    def peer_by_key(self, key: bytes) -> PublicIdentity | None:
        return self._roster.get(key)

    def advertise(self, listener: Endpoint) -> None:
        self.listeners.append(listener)

    @property
    def mapped(self) -> tuple[Endpoint, ...]:
        """Where port mappings let strangers in to the listeners."""
        return tuple(self._mappings.values())

    def advertise_mapping(self, listener: Endpoint, external: Endpoint | None) -> None:
        if external is None:
            self._mappings.pop(listener, None)
        else:
            self._mappings[listener] = external
        self._on_mapped(self)

    def advertise_standing(self, af: AddressFamily, port: int | None) -> None:
        if port is None:
            self.standing.pop(af, None)
        else:
            self.standing[af] = port
        self._on_standing(self)

    async def viewed(self) -> None:
        await self._viewed.wait()

    def expect(self, news: Callable[[], Awaitable[None]]) -> None:
        self._expected.append(news)

    async def settled(self) -> None:
        """Return once what was expected has come."""
        await asyncio.gather(*(news() for news in self._expected))

    def spawn(self, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    def on_close(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def inbound(self, inbound: InboundStream) -> None:
        self._on_stream(self, inbound)

    async def own_record(self) -> bytes:
        return await self._own_record(self.name)

    async def learn_record(self, peer: str, signed: bytes) -> None:
        if not await self._learn_record(peer, signed):
            raise AttemptFailed(Reason.PROOF_FAILED, f"{peer} returned a record that does not verify or is outdated")

    def take_view(self, view: PeerView, clock_offset_s: float) -> None:
        """Learn what the node's own address record says, and how far this machine's clock is behind true time."""
        self.view = view
        self._clock_offset_s = clock_offset_s
        self._viewed.set()
        self._viewed = asyncio.Event()
        if view.udp_blocked:
            self.network.avoid_udp()

    async def close(self) -> None:
        """Close the listeners and end the background tasks."""
        for callback in self._callbacks:
            callback()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.network.close()
