"""What a gateway is asked for and what it answers, whichever protocol it speaks."""

from dataclasses import dataclass
from typing import Protocol

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.port_mapping import PortMapping


class MappingRefused(WarpfleetError):
    """The gateway answered that it does not map; the message has its code."""


class GatewaySilent(WarpfleetError):
    """There is no gateway, or it speaks no such protocol: it did not answer in time, or what it said was no answer."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A TCP port of ours is reached at `external` for `lifetime_s`. `epoch_s` is how long the gateway has kept its
    mappings, None where its protocol does not tell."""

    external: Endpoint
    lifetime_s: float
    epoch_s: int | None = None


class Mapper(Protocol):
    """One protocol, spoken to the gateway of one vantage and address family."""

    @property
    def protocol(self) -> PortMapping:
        """Which one."""

    async def greet(self) -> None:
        """Return once the gateway has answered a question that changes nothing. MappingRefused, GatewaySilent."""

    async def map(self, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        """Map a TCP port, or renew its mapping; `suggested` is the external port that we would like, or have.
        MappingRefused, GatewaySilent."""

    async def unmap(self, port: int, external: Endpoint) -> None:
        """Take the mapping back. MappingRefused, GatewaySilent."""
