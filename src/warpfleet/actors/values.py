"""The values that cross between the roles: orders, reports, signals. All of them pickle."""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from warpfleet.configs.fleet import Broker, TurnServer
from warpfleet.core.combo import AttemptOutcome, Combo, Policy, Reason, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.exit import INTERNET
from warpfleet.core.identity import Identity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.core.plan import Pin
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.attempt_messages import AttemptMessage


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node to serve, with everything that it needs. `realm` is where its external addresses are unique, and `plain`
    is whether its pipes over TCP need not be sealed, where the peer says the same."""

    identity: Identity
    vantage: Vantage
    listen: tuple[int, ...]
    brokers: tuple[Broker, ...]
    stun: tuple[Endpoint, ...]
    turn: tuple[TurnServer, ...]
    ntp: tuple[str, ...]
    realm: str = INTERNET
    plain: bool = False

    @property
    def name(self) -> str:
        """The node's name."""
        return self.identity.name


class Use(Enum):
    """What becomes of a pipe that has won."""

    MEASURE = "measure"  # its first byte and round trip are timed, then it is closed
    KEEP = "keep"  # the same, and again when it has moved; it is closed when its attempt is cancelled
    HOLD = "hold"  # it is handed to the program


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Start the initiator's side of an attempt."""

    node: str
    attempt_id: str
    connection_id: str
    started_at_us: int
    combo: Combo
    timeout_s: float
    peer: str
    theirs: PeerView
    use: Use
    rtt_ms: float | None = None
    for_move: bool = False


@dataclass(frozen=True, slots=True)
class NameWinner:
    """The attempt's proved pipe may be taken; or, where `moves` names the plugin of a relayed one that is in use, that
    one moves to this attempt's path."""

    node: str
    attempt_id: str
    moves: str | None = None


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """Cancel one side of an attempt; a pipe that it has meanwhile won is closed."""

    node: str
    attempt_id: str
    reason: Reason


Command = StartAttempt | NameWinner | CancelAttempt


class Stage(Enum):
    """How far an attempt has come."""

    OPENED = "opened"  # the responder's side began
    READY = "ready"  # both ends are proved; the pipe waits to be named
    WON = "won"  # both ends agree on it
    MOVED = "moved"  # the pipe that this attempt has won sends on a direct path from now on
    MEASURED = "measured"
    ENDED = "ended"  # without a pipe; after WON: the relayed pipe is over


@dataclass(frozen=True, slots=True)
class PipeFacts:
    """What is recorded of a pipe."""

    transport: Transport
    relayed: bool
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a plugin host tells its coordinator. Times are the host's monotonic clock, in seconds. Of a path that was
    won for the pipe of another plugin, `moves` names that one."""

    stage: Stage
    node: str
    peer: str
    attempt_id: str
    connection_id: str
    side: Side
    combo: Combo
    begun_s: float
    at_s: float
    started_at_us: int
    outcome: AttemptOutcome | None = None
    reason: Reason | None = None
    detail: str = ""
    pipe: PipeFacts | None = None
    moves: str | None = None
    sockets: int = 0
    packets_sent: int | None = 0
    first_byte_at_s: float | None = None
    rtt_ms: float | None = None


class StandingPorts(NamedTuple):
    """At which UDP ports of its external addresses a plugin of a node always hears, by family."""

    node: str
    plugin: str
    ports: dict[AddressFamily, int]


@dataclass(frozen=True, slots=True)
class OutgoingSignal:
    """A message for a peer; a failure to deliver it is reported back to the plugin."""

    node: str
    peer: str
    connection_id: str
    plugin: str
    message: AttemptMessage
    deadline_s: float


@dataclass(frozen=True, slots=True)
class IncomingSignal:
    """A message from a peer; `message` is None where ours of this attempt could not be delivered."""

    node: str
    sender: str
    connection_id: str
    plugin: str
    attempt_id: str
    message: AttemptMessage | None


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    """Connect an ordered pair once. Their external addresses belong to `realm`."""

    sweep_id: str
    connection_id: str
    initiator: str
    responder: str
    repeat: int
    policy: Policy
    pin: Pin = field(default_factory=Pin)
    use: Use = Use.MEASURE
    realm: str = "internet"
