"""What a cluster consists of, and what it is doing."""

from dataclasses import dataclass
from datetime import datetime

from warpfleet.cluster.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """A machine of the Ray cluster."""

    name: str
    address: str
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatus:
    """One actor. `memory_mib` is its proportional set size (PSS); None for one that is dead or starting."""

    role: str
    host: str
    pid: int | None
    alive: bool
    restarts: int
    memory_mib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A node that is open: where it stands, the external address and NAT alias of each family that it has."""

    name: str
    host: str
    vantage: str
    external: dict[int, str]
    nat: dict[int, str]
    ports: tuple[int, ...]


@dataclass(slots=True)
class Job:
    """Something under way: a sweep into a directory, or one connection."""

    what: str
    started_at: datetime
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """Everything. `fleet` is None while no fleet is open."""

    version: str
    pid: int
    started_at: datetime
    fleet: str | None
    hosts: tuple[HostStatus, ...]
    actors: tuple[ActorStatus, ...]
    nodes: tuple[NodeStatus, ...]
    jobs: tuple[Job, ...]
