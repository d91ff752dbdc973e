"""Which combos a pair of NATs allows. Theory only: what RFC 4787 behaviours leave possible."""

from enum import Enum

from warpfleet.core.combo import Combo, Reason, RouteType
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.peer import PeerView, same_network


class Requirement(Enum):
    """What a technique needs of a pair of nodes, so that the planner can rule it out without trying."""

    PEER_REACHABLE = "peer_reachable"  # an inbound TCP connect to the responder
    PEER_LISTENING = "peer_listening"  # a listener of the responder, whatever address leads to it
    SELF_REACHABLE = "self_reachable"  # an inbound TCP connect to the initiator
    PUNCHABLE = "punchable"  # UDP both ways, with mappings that the other side can know, predict or see
    TCP_PUNCHABLE = "tcp_punchable"  # the same with TCP
    GUESSABLE = "guessable"  # UDP both ways, with one side's mappings many enough for the other to guess one
    RELAY = "relay"
    SIGNAL = "signal"  # nothing but the signal channel


class Kind(Enum):
    """A NAT behaviour as hole punching sees it."""

    EASY = "E"  # endpoint-independent mapping, and lets in whom it has sent to, whatever the port
    PORT_FILTERED = "P"  # endpoint-independent mapping, address- and port-dependent filtering
    SEQUENTIAL = "Q"  # destination-dependent mapping with predictable ports
    RANDOM = "R"  # destination-dependent mapping with unpredictable ports
    BLOCKED = "B"  # no UDP
    UNKNOWN = "?"


def kind_of(nat: NatBehaviour) -> Kind:
    """Classify a behaviour for hole punching; unknown where what decides it is unknown."""
    if nat.udp is False:
        return Kind.BLOCKED
    if nat.translated is False or nat.mapping is Mapping.EIM:
        if nat.filtering is Filtering.UNKNOWN:
            return Kind.UNKNOWN
        return Kind.PORT_FILTERED if nat.filtering is Filtering.APDF else Kind.EASY
    if nat.mapping is Mapping.UNKNOWN:
        return Kind.UNKNOWN
    return Kind.SEQUENTIAL if nat.port_assignment is PortAssignment.SEQUENTIAL else Kind.RANDOM


# The pairs that punching reaches: both sides' ports are known or predicted, or an easy side sees the port of whatever
# comes (a peer-reflexive candidate).
_KNOWABLE = {Kind.EASY, Kind.PORT_FILTERED, Kind.SEQUENTIAL, Kind.UNKNOWN}
_PUNCHABLE = {(a, b) for a in _KNOWABLE for b in _KNOWABLE} | {
    pair for easy in (Kind.EASY, Kind.UNKNOWN) for pair in ((easy, Kind.RANDOM), (Kind.RANDOM, easy))
}
# One endpoint that stays, and many that are random. Two random ends would have to guess each other's at once.
_GUESSABLE = {pair for one in (Kind.PORT_FILTERED, Kind.UNKNOWN) for pair in ((one, Kind.RANDOM), (Kind.RANDOM, one))}
_REACHED = {
    Requirement.PUNCHABLE: _PUNCHABLE,
    Requirement.TCP_PUNCHABLE: _PUNCHABLE,
    Requirement.GUESSABLE: _GUESSABLE,
}


DIALS = frozenset({Requirement.PEER_REACHABLE, Requirement.SELF_REACHABLE})
"""What is met where TCP comes in to one end."""


def impossible(requirement: Requirement, combo: Combo, mine: PeerView, theirs: PeerView) -> Reason | None:
    """Why a combo cannot even be formed: an address, a listener or a relay is missing. None where it can."""
    if requirement is Requirement.SIGNAL:
        return None
    if requirement is Requirement.PEER_LISTENING:
        return None if theirs.ports(combo.af) and mine.addresses(combo.af) else Reason.NOT_LISTENING
    if requirement is Requirement.RELAY:
        return _missing_family(combo, mine, theirs) if mine.relay else Reason.NO_RELAY
    target = dialled(requirement, mine, theirs)
    source = theirs if target is mine else mine
    missing = _missing_route(combo, source, target)
    if missing or requirement in _REACHED:
        return missing
    if combo.route is not RouteType.LOOPBACK and not target.ports(combo.af):
        return Reason.NOT_LISTENING
    return None


def ruled_out(requirement: Requirement, combo: Combo, mine: PeerView, theirs: PeerView) -> Reason | None:
    """Why the NATs between the two ends leave a combo no chance. None where it has one, or nothing is known.

    What was found out about them with UDP says nothing for certain about TCP that comes in: see `is_long_shot`. Whom a
    NAT maps its ports for, it does for TCP mostly as for UDP. What a network lets out that blocks UDP is not known.
    """
    if combo.route is not RouteType.EXT or requirement not in _REACHED:
        return None
    kinds = kind_of(mine.behaviour(combo.af)), kind_of(theirs.behaviour(combo.af))
    if Kind.BLOCKED in kinds:
        return Reason.UDP_BLOCKED
    return None if kinds in _REACHED[requirement] else Reason.NAT_RULES_OUT


def is_long_shot(requirement: Requirement, combo: Combo, mine: PeerView, theirs: PeerView) -> bool:
    """Whether a combo has a chance that is worth an attempt, but no waiting: a TCP connect to a host behind a NAT or a
    filter. A forwarded port, or a firewall that passes TCP 443 alone, does not show in the UDP tests of RFC 5780. A
    port mapping is known to let strangers in; whether it hairpins, is not."""
    if combo.route is not RouteType.EXT or requirement not in DIALS:
        return False
    end, one_exit = dialled(requirement, mine, theirs), mine.external.get(combo.af) == theirs.external.get(combo.af)
    if end.mappings(combo.af) and not one_exit:
        return False
    nat = end.behaviour(combo.af)
    return bool(nat.translated) or nat.filtering in (Filtering.ADF, Filtering.APDF)


def is_sure(requirement: Requirement, combo: Combo, mine: PeerView, theirs: PeerView) -> bool:
    """Whether theory leaves no doubt of a combo, and no other is there sooner. To a host that anybody reaches that is a
    TCP connect. From one it is UDP to its standing socket, as soon as the peer has heard of us: a stream that the peer
    has to open carries our first byte a round trip later, and is for peers without UDP."""
    ours, peers = mine.behaviour(combo.af), theirs.behaviour(combo.af)
    if combo.route is not RouteType.EXT or mine.external.get(combo.af) == theirs.external.get(combo.af):
        return False
    if peers.open:
        return requirement is Requirement.PEER_REACHABLE
    hears = mine.hears(combo.af) and kind_of(peers) not in (Kind.BLOCKED, Kind.UNKNOWN)
    return ours.open and requirement is (Requirement.PUNCHABLE if hears else Requirement.SELF_REACHABLE)


def dialled(requirement: Requirement, mine: PeerView, theirs: PeerView) -> PeerView:
    """The end whose listener or endpoint a technique needs."""
    return mine if requirement is Requirement.SELF_REACHABLE else theirs


def _missing_route(combo: Combo, source: PeerView, target: PeerView) -> Reason | None:
    if combo.route is RouteType.LOOPBACK:
        return None if source.machine == target.machine else Reason.NOT_SAME_MACHINE
    missing = _missing_family(combo, source, target)
    if combo.route is RouteType.NIC:
        return missing or (None if same_network(source, target, combo.af) else Reason.NOT_SAME_NETWORK)
    if combo.af in source.external and combo.af in target.external:
        return None
    return missing or Reason.NO_ADDRESS


def _missing_family(combo: Combo, source: PeerView, target: PeerView) -> Reason | None:
    both_have_it = source.addresses(combo.af) and target.addresses(combo.af)
    return None if both_have_it else Reason.NO_COMMON_FAMILY
