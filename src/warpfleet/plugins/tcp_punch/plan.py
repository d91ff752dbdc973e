"""From which ports, to which ports and when the two sides of a TCP punch connect. Pure.

A punch is a series of meetings, each on a local port of its own: routers that have seen a SYN refused keep the ports of
its path closed for a while. The first meeting, number 0, is as soon as both sides know each other's endpoints. Later
ones are at the boundaries of windows of the wall clock, and have the window's number: they need no word from the peer.
"""

from dataclasses import dataclass
from hashlib import blake2b

from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Mapping, NatBehaviour, PortAssignment

CANDIDATES_MAX = 8  # mappings that others may take between the STUN request and the punch; more would be a port scan

FIRST_MEETING = 0
# Time for a STUN request over TCP and a signal, on most of the internet, before each boundary.
_PREPARATION_US = 500_000
WINDOW_US = 1_000_000
# So many windows at a time have a listener and streams: a SYN is sent again after 1 s and 3 s, and each of them is a
# socket. The first meeting stays.
WINDOWS_OPEN = 5
# A meeting and its refusal fit into it on most of the internet; it is before a relay is tried.
_PATIENCE_US = 1_000_000
# Clocks that are less than this apart do not spoil the order in which filters are opened and passed.
_HEAD_START_US = 200_000
# Past the home router alone, or past the carrier's.
_HOME, _CARRIER = 2, 4
# By pairs of windows since the connection began, in turn. In the first pair both SYNs cross.
_HOP_LIMITS = (None, _HOME, _CARRIER)

# Clocks that say that a signal took longer, or less than no time, are off by more than it took.
_SIGNAL_MAX_US = 1_000_000
# What most signals take no longer than.
_SIGNAL_US = 500_000
# Of what a signal took, by which the next one may take longer: whoever dials too soon is refused by some routers.
_UNSTEADY = 4
# What clocks are off that NTP corrects. It is as good as no time for a signal: the SYNs are longer under way.
_CLOCKS_US = 50_000

# The dynamic ports of RFC 6335 section 6: no service of the host, or mapped to it, has one.
_FIRST_PORT, _PORTS = 49_152, 16_384
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Step:
    """Connect at an instant, in microseconds since 1970. With a hop limit the first SYN opens our own filters, and dies
    before it comes to the peer's, which might refuse it."""

    at_us: int
    hop_limit: int | None = None


def local_ports(attempt_id: str, side: Side, meeting: int) -> list[int]:
    """The ports that a side tries to listen on, the first that is free. Only the two ends know the attempt's id, and no
    two attempts share one, so neighbours behind one NAT hardly ever meet on a port."""
    digest = blake2b(f"{attempt_id} {side} {meeting}".encode(), digest_size=16).digest()
    return [_FIRST_PORT + int.from_bytes(digest[i : i + 2]) % _PORTS for i in range(0, len(digest), 2)]


def keeps_ports(nat: NatBehaviour) -> bool:
    """Whether the external port of a mapping is the local one, as far as nobody else has it."""
    return nat.translated is False or (nat.mapping is Mapping.EIM and nat.port_assignment is PortAssignment.PRESERVING)


def predicted(reflexive: Endpoint, nat: NatBehaviour) -> list[Endpoint]:
    """Where the next mapping of a port may be whose last one is `reflexive`, the likeliest first.

    A sequential allocator goes on by its step, also for the mappings of others in between.
    """
    if nat.mapping not in (Mapping.ADM, Mapping.APDM) or not nat.port_delta:
        return [reflexive]
    ports = (reflexive.port + nat.port_delta * number for number in range(1, CANDIDATES_MAX + 1))
    return [Endpoint(reflexive.ip, port) for port in ports if 0 < port <= _LAST_PORT]


def patience_us(took_us: int) -> int:
    """How long the responder waits for its answer to arrive: a little longer than the offer took by both clocks,
    `took_us`, and where these are too far apart to tell, longer than most signals take."""
    known = -_CLOCKS_US < took_us < _SIGNAL_MAX_US
    return max(took_us + took_us // _UNSTEADY, 0) if known else _SIGNAL_US


def preparation_us(took_us: int) -> int:
    """How long before the boundary of a window a side begins to prepare it, where the peer's last word took so long by
    both clocks."""
    return _PREPARATION_US + patience_us(took_us)


def responders_step(told_at_us: int, heard_at_us: int, took_us: int, *, corrects: bool = False) -> Step:
    """What the responder does in the first meeting, having told its endpoints and heard the initiator's, in a word that
    took so long by both clocks.

    Both sides come to the same instant: that at which both have heard, and the responder's patience is over. Where the
    clocks are wrong it is the responder that may come too early: so its first SYN goes no further than its own home,
    unless the word `corrects` one before: by then the initiator has dialled.
    """
    return Step(max(heard_at_us, told_at_us + patience_us(took_us)), None if corrects else _HOME)


def initiators_step(told_at_us: int, heard_at_us: int, took_us: int, their_took_us: int) -> Step:
    """The same of the initiator. `their_took_us` is how long its own word took the responder: what the two clocks are
    apart is in both, with opposite signs."""
    one_way_us = max(took_us + their_took_us, 0) // 2
    return Step(max(heard_at_us, told_at_us + one_way_us, heard_at_us - one_way_us + patience_us(their_took_us)))


def clock_ahead_us(took_us: int, their_took_us: int) -> int:
    """How far the peer's clock is ahead of ours, by the words that took least each way; none, where that spoils no
    order: NTP knows better than words that do not take the same time."""
    ahead_us = (their_took_us - took_us) // 2
    return ahead_us if abs(ahead_us) > _HEAD_START_US else 0


def next_window(now_us: int) -> int:
    """The window whose boundary is the next one to leave earlier meetings their time."""
    return (now_us + _PATIENCE_US) // WINDOW_US + 1


def is_near(window: int, now_us: int) -> bool:
    """Whether a peer whose clock is less than a window off may be preparing this window, or be in it: windows B and
    B + 1 overlap."""
    return abs(window * WINDOW_US - preparation_us(_SIGNAL_US) - now_us) < 2 * WINDOW_US


def window_step(side: Side, window: int, started_at_us: int) -> Step:
    """What to do in the meeting of a window, of a connection that began then: the two sides open their filters in turn,
    and the other passes them."""
    boundary_us = window * WINDOW_US
    pair, turn = divmod(window - started_at_us // WINDOW_US, 2)
    opener = (Side.RESPONDER, Side.INITIATOR)[turn]
    hop_limit = _HOP_LIMITS[pair % len(_HOP_LIMITS)]
    if hop_limit is None:
        return Step(boundary_us)
    return Step(boundary_us, hop_limit) if side is opener else Step(boundary_us + _HEAD_START_US)
