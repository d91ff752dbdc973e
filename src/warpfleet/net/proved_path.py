"""A path that both ends of a connection have agreed to move its pipe to."""

from dataclasses import dataclass

from warpfleet.core.combo import Side
from warpfleet.net.interfaces import PipePath
from warpfleet.net.quic import DatagramPath


@dataclass(frozen=True, slots=True)
class ProvedPath:
    """The way for the pipe that `plugin` has won for this connection with `peer`, on this side of it."""

    plugin: str
    connection_id: str
    peer: str
    side: Side
    way: DatagramPath

    @property
    def path(self) -> PipePath:
        """The way as what carries a pipe."""
        return self.way.path

    async def close(self) -> None:
        """Close it: another one has won."""
        self.discard()

    def discard(self) -> None:
        """Close it: there is no pipe to move here."""
        self.way.socket.close()
