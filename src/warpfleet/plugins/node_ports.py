"""What plugins see of the node that they run for, as an interface."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.net.interfaces import NodeNetwork
from warpfleet.plugins.inbox import InboundStream


class NodePorts(Protocol):
    """One node, as its plugins see it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def identity(self) -> Identity:
        """Its keys."""

    @property
    def network(self) -> NodeNetwork:
        """The network at its vantage, unguarded: for listeners. Attempts have a guarded one of their own."""

    @property
    def view(self) -> PeerView:
        """What its own address record says."""

    @property
    def listen_ports(self) -> Sequence[int]:
        """The TCP ports that it is configured to listen on; 0 is any free one."""

    def now_us(self) -> int:
        """The wall clock in microseconds since 1970 (UTC), corrected by what NTP servers said."""

    def peer_by_key(self, key: bytes) -> PublicIdentity | None:
        """The trusted peer with this 32-byte Ed25519 key."""

    def advertise(self, listener: Endpoint) -> None:
        """Add a listener to the node's address record. During `setup`."""

    def advertise_mapping(self, listener: Endpoint, external: Endpoint | None) -> None:
        """Say in the node's address record where a port mapping makes a listener reachable from outside; None: no more.
        At any time."""

    def advertise_standing(self, af: AddressFamily, port: int | None) -> None:
        """Say in the node's address record at which UDP port of its external address a socket always hears; None: no
        more. At any time."""

    async def viewed(self) -> None:
        """Return once `view` has been learnt, for the first time or anew."""

    def expect(self, news: Callable[[], Awaitable[None]]) -> None:
        """What returns once the address record has something more to say: whoever plans for a whole fleet waits for it,
        a few seconds at most. During `setup`."""

    def spawn(self, work: Awaitable[None]) -> None:
        """Run a background task for as long as the node is open."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call this when the node closes."""

    def inbound(self, inbound: InboundStream) -> None:
        """Hand an inbound stream to the attempt that its first frame names, whichever plugin runs it."""

    async def own_record(self) -> bytes:
        """The node's current address record, signed and encoded."""

    async def learn_record(self, peer: str, signed: bytes) -> None:
        """Take a signed address record of a peer. AttemptFailed where it does not verify or is not the newest."""
