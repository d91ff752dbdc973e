"""The vocabulary of connecting: phases, route types, combos, outcomes and reasons. Closed sets, all of them."""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """The phases of a walk, in their order."""

    DIRECT = "direct"
    PUNCH = "punch"
    SPRAY = "spray"
    RELAY = "relay"


class RouteType(StrEnum):
    """Which of the peer's addresses is tried."""

    NIC = "nic"
    EXT = "ext"
    LOOPBACK = "loopback"


class Transport(StrEnum):
    """What carries a pipe's bytes."""

    TCP = "tcp"
    UDP = "udp"


class Side(StrEnum):
    """Which end of a connection an attempt ran on."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class Policy(StrEnum):
    """How the phases are walked."""

    STRICT = "strict"
    STAGGERED = "staggered"
    PATIENT = "patient"
    RELAY_FIRST = "relay_first"


@dataclass(frozen=True, slots=True, order=True)
class Combo:
    """Plugin x address family x route type, for one pair. `af` is 4 or 6."""

    plugin: str
    af: int
    route: RouteType

    def __str__(self) -> str:
        return f"{self.plugin}/IPv{self.af}/{self.route}"


class ConnectionOutcome(StrEnum):
    """How a connection ended."""

    DIRECT = "direct"
    RELAYED = "relayed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ERROR = "error"


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    WON = "won"
    LOST = "lost"  # it worked, and another pipe was named
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Why an attempt or a connection ended as it did. Every end that is not a win has one."""

    # skipped: the planner ruled the combo out
    NO_COMMON_FAMILY = "no_common_family"
    NO_ADDRESS = "no_address"  # the peer advertises nothing of this family and route
    NOT_SAME_MACHINE = "not_same_machine"
    NOT_SAME_NETWORK = "not_same_network"
    NOT_LISTENING = "not_listening"
    NAT_RULES_OUT = "nat_rules_out"
    UDP_BLOCKED = "udp_blocked"
    EXPERIENCE_RULES_OUT = "experience_rules_out"  # the observatory knows of enough tries, none of which worked
    NO_RELAY = "no_relay"
    OPTED_OUT = "opted_out"  # the plugin's setup returned None
    NOT_NEEDED = "not_needed"  # an earlier phase won
    # failed or timed out: the network said no, or nothing
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    NO_ANSWER = "no_answer"
    PEER_UNAVAILABLE = "peer_unavailable"  # the signal was not acknowledged in time
    PROOF_FAILED = "proof_failed"  # somebody answered who is not the peer
    STUN_FAILED = "stun_failed"
    RELAY_REFUSED = "relay_refused"
    RELAY_UNREACHABLE = "relay_unreachable"
    TARGET_FORBIDDEN = "target_forbidden"
    BUDGET_SPENT = "budget_spent"
    # decided elsewhere
    OTHER_PIPE_WON = "other_pipe_won"
    STOPPED = "stopped"  # by the user, or by the end of the sweep
    INTERRUPTED = "interrupted"  # found unfinished in the log of a sweep that was killed
    DEADLINE = "deadline"  # the connection's own deadline passed
    ALL_FAILED = "all_failed"
    ONLY_LONG_SHOTS = "only_long_shots"  # all that could be tried was unlikely to work, and did not
    REFRESHED = "refreshed"  # it brought the peer's current address record; such an attempt carries no pipe
    NOTHING_TO_TRY = "nothing_to_try"
    PEER_CLOSED = "peer_closed"  # the other end gave this attempt up
    NO_RECORD = "no_record"  # no valid address record of the peer
    UNTRUSTED = "untrusted"  # the peer is not one that the configuration trusts
    ACTOR_DIED = "actor_died"
    INTERNAL = "internal"  # a plugin raised what it should not: see the log
