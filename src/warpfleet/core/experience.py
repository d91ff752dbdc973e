"""What earlier attempts teach: evidence about subjects, and how good their tracks are."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from warpfleet.core.combo import AttemptOutcome, Combo, Reason, RouteType
from warpfleet.core.exit import Exit
from warpfleet.core.pairing import DIALS, Requirement, dialled
from warpfleet.core.peer import AddressFamily, PeerView

FRESH_S = 24 * 3600.0  # older evidence does not count: many access networks give out a new address a day
KEPT_TRIES = 32  # of a subject, the last: what has changed shows within so many tries

# Rule of three: after 8 tries without a win the chance is below 3/8 with 95 % confidence, of what was unlikely to begin
# with.
_HOPELESS_TRIES = 8
_PROVED_WINS = 3
_PROVED_SHARE = 0.9
_SMOOTHING = 0.25  # the last four wins make up two thirds of a mean

# A TCP connect and the proof of both identities take 3 round trips of the path. A reverse connect waits for a signal
# first, as does nearly everything that may outrun it. A punch asks a STUN server and waits for an answer from the peer,
# too; its twin over the other transport may have begun before.
_FAIR_ROUND_TRIPS_INBOUND, _FAIR_ROUND_TRIPS = 4, 8
# A host that lets TCP in answers a SYN after one round trip.
_FAIR_ROUND_TRIPS_SYN = 1.5
_FAIR_MIN_MS = 50.0  # the two hosts' own work takes its time, however short the path
_NETWORK_SAID_NO = frozenset({Reason.REFUSED, Reason.UNREACHABLE, Reason.RESET, Reason.NO_ANSWER})

# The signal channel and a race over every kind of address say nothing about the NATs between two ends.
_SAYS_NOTHING = frozenset({Requirement.SIGNAL, Requirement.PEER_LISTENING})


@dataclass(frozen=True, slots=True)
class Inbound:
    """Whether TCP comes in to the listeners behind an exit, dialled by a plugin."""

    exit: Exit
    plugin: str


@dataclass(frozen=True, slots=True)
class Between:
    """Whether a plugin gets through between two NAT behaviours (`NatBehaviour.signature`) of one address realm."""

    realm: str
    plugin: str
    af: AddressFamily
    initiator: str
    responder: str


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How long a packet and its answer take between two exits by a plugin's pipe. The addresses are in order."""

    realm: str
    plugin: str
    af: AddressFamily
    one: str
    other: str


Subject = Inbound | Between | RoundTrip


def round_trip_of(combo: Combo, mine: PeerView, theirs: PeerView, realm: str) -> RoundTrip | None:
    """What the round trip of a combo's pipe is evidence about. None where the two exits are not known."""
    ours, peers = _exit(mine, combo.af, realm), _exit(theirs, combo.af, realm)
    if combo.route is not RouteType.EXT or ours is None or peers is None:
        return None
    return RoundTrip(realm, combo.plugin, combo.af, *sorted((ours.address, peers.address)))


def subject_of(requirement: Requirement, combo: Combo, mine: PeerView, theirs: PeerView, realm: str) -> Subject | None:
    """What an attempt of a combo is evidence about. None where it says nothing about other pairs.

    That is so inside one network, behind one exit, where an external address is reached by hairpinning alone, and of a
    listener that has a port mapping of its own.
    """
    if combo.route is not RouteType.EXT or requirement in _SAYS_NOTHING:
        return None
    ours, peers = _exit(mine, combo.af, realm), _exit(theirs, combo.af, realm)
    if ours is not None and ours == peers:
        return None
    if requirement in DIALS:
        end = dialled(requirement, mine, theirs)
        target = None if end.mappings(combo.af) else ours if end is mine else peers
        return Inbound(target, combo.plugin) if target else None
    signatures = mine.behaviour(combo.af).signature, theirs.behaviour(combo.af).signature
    return Between(realm, combo.plugin, combo.af, *signatures)


def _exit(view: PeerView, af: AddressFamily, realm: str) -> Exit | None:
    return Exit.of(realm, view.external[af]) if af in view.external else None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, on the initiator's side, after how many milliseconds. `unanswered` is whether none of the
    streams that it dialled was answered."""

    combo: Combo
    outcome: AttemptOutcome
    reason: Reason | None
    ran_ms: float
    unanswered: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fair try. `connect_ms` is how long it took to become the connection's pipe, `rtt_ms` that pipe's round trip;
    None where it did not. `at` is seconds since 1970."""

    subject: Subject
    worked: bool
    at: float
    connect_ms: float | None = None
    rtt_ms: float | None = None


def evidence(subject: Subject, ended: Ended, pipe: Combo, rtt_ms: float | None, at: float) -> Evidence | None:
    """What an attempt of a connection teaches whose pipe came by `pipe`. None where it was no fair try.

    Without a pipe nothing may be concluded at all: the peer or the signalling may have been gone.
    """
    if ended.combo == pipe:
        return Evidence(subject, True, at, ended.ran_ms, rtt_ms)
    if ended.outcome is AttemptOutcome.LOST:
        return Evidence(subject, True, at)
    refuted = ended.outcome in (AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT) and ended.reason in _NETWORK_SAID_NO
    outrun = ended.outcome is AttemptOutcome.CANCELLED and ended.reason is Reason.OTHER_PIPE_WON
    # The round trip of a path inside one network is no measure for one over the internet.
    if outrun and rtt_ms is not None and pipe.route is ended.combo.route:
        round_trips = float(_FAIR_ROUND_TRIPS)
        if isinstance(subject, Inbound):
            round_trips = _FAIR_ROUND_TRIPS_SYN if ended.unanswered else _FAIR_ROUND_TRIPS_INBOUND
        refuted = ended.ran_ms >= max(round_trips * rtt_ms, _FAIR_MIN_MS)
    return Evidence(subject, False, at) if refuted else None


@dataclass(frozen=True, slots=True)
class Track:
    """The last tries of one subject. The times are exponentially weighted means of those that became the pipe, None
    where none did. `last_at` is seconds since 1970."""

    tries: int
    wins: int
    last_at: float
    connect_ms: float | None = None
    rtt_ms: float | None = None

    @property
    def proved(self) -> bool:
        """Whether the next try may be relied on."""
        return self.wins >= _PROVED_WINS and self.wins >= _PROVED_SHARE * self.tries


def track(tries: Iterable[Evidence]) -> Track:
    """The track of one subject from its evidence, one piece at least, in the order in which it came about."""
    items = list(tries)
    return Track(
        tries=len(items),
        wins=sum(item.worked for item in items),
        last_at=max(item.at for item in items),
        connect_ms=_mean(item.connect_ms for item in items),
        rtt_ms=_mean(item.rtt_ms for item in items),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    mean: float | None = None
    for value in values:
        if value is not None:
            mean = value if mean is None else mean + _SMOOTHING * (value - mean)
    return mean


@dataclass(frozen=True, slots=True)
class Experience:
    """What a planner knows from before, in one address realm. `tracks` rest on fresh evidence alone; what is `busy` as
    many others find out just now as can teach anything."""

    realm: str = "internet"
    tracks: Mapping[Subject, Track] = field(default_factory=dict)
    busy: Collection[Subject] = ()

    def tries(self, subject: Subject) -> int:
        """How often that was tried; an exit by whichever plugin: TCP comes in by either or by none."""
        return sum(found.tries for found in self._about(subject))

    def wins(self, subject: Subject) -> int:
        """How often that worked."""
        return sum(found.wins for found in self._about(subject))

    def hopeless(self, subject: Subject) -> bool:
        """Whether it was tried often enough, and never worked."""
        return self.tries(subject) >= _HOPELESS_TRIES and not self.wins(subject)

    def _about(self, subject: Subject) -> list[Track]:
        if isinstance(subject, Inbound):
            return [t for s, t in self.tracks.items() if isinstance(s, Inbound) and s.exit == subject.exit]
        return [self.tracks[subject]] if subject in self.tracks else []


NO_EXPERIENCE = Experience()
