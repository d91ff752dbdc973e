"""What experience advises a planner, with the numbers that speak for it, in words for people."""

from dataclasses import dataclass
from typing import NamedTuple

from warpfleet.core.combo import Combo
from warpfleet.core.experience import Between, Experience, Inbound, Subject, round_trip_of, subject_of
from warpfleet.core.pairing import Requirement, is_long_shot, is_sure
from warpfleet.core.peer import PeerView

# What usually takes so long may take half as long again; a busy host adds a few hundredths of a second.
_PATIENCE = 1.5
_PATIENCE_S = 0.05


class Expected(NamedTuple):
    """A pipe that is to be there `by_s` seconds after the walk began, and why that is believed."""

    by_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Advisor:
    """Experience, as it bears on one pair."""

    experience: Experience
    mine: PeerView
    theirs: PeerView

    def against(self, requirement: Requirement, combo: Combo) -> str | None:
        """Why a combo is not worth an attempt. None where it is: what theory thinks likely is tried, whatever became of
        it elsewhere or with others."""
        subject = self._subject(requirement, combo)
        unlikely = is_long_shot(requirement, combo, self.mine, self.theirs)
        if not unlikely or not isinstance(subject, Inbound) or self.experience.wins(subject):
            return None
        if subject in self.experience.busy:
            return f"others try TCP listeners behind {subject.exit.address} just now"
        if not self.experience.hopeless(subject):
            return None
        tries = self.experience.tries(subject)
        return f"0 of {tries} tries reached TCP listeners behind {subject.exit.address} in the last 24 h"

    def is_long_shot(self, requirement: Requirement, combo: Combo) -> bool:
        """Whether a combo is unlikely by theory, and has not worked before."""
        subject = self._subject(requirement, combo)
        worked = isinstance(subject, Inbound) and self.experience.wins(subject) > 0
        return is_long_shot(requirement, combo, self.mine, self.theirs) and not worked

    def is_sure(self, requirement: Requirement, combo: Combo) -> bool:
        """Whether theory leaves no doubt of a combo, and experience does not deny it."""
        subject = self._subject(requirement, combo)
        denied = subject is not None and self.experience.hopeless(subject)
        return is_sure(requirement, combo, self.mine, self.theirs) and not denied

    def rtt_ms(self, combo: Combo) -> float | None:
        """The round trip of the pipes that this combo made before between the two exits."""
        subject = round_trip_of(combo, self.mine, self.theirs, self.experience.realm)
        track = self.experience.tracks.get(subject) if subject else None
        return track.rtt_ms if track else None

    def expected(self, requirement: Requirement, combo: Combo, start_s: float) -> Expected | None:
        """When a combo that starts then has its pipe; None where it has not proved itself."""
        subject = self._subject(requirement, combo)
        track = self.experience.tracks.get(subject) if subject else None
        if subject is None or track is None or track.connect_ms is None or not track.proved:
            return None
        by_s = start_s + _PATIENCE * track.connect_ms / 1000 + _PATIENCE_S
        record = f"won {track.wins} of {track.tries}, in {track.connect_ms:.0f} ms on average"
        return Expected(by_s, f"{combo.plugin} {self._where(subject)} {record}")

    def _subject(self, requirement: Requirement, combo: Combo) -> Subject | None:
        return subject_of(requirement, combo, self.mine, self.theirs, self.experience.realm)

    def _where(self, subject: Subject) -> str:
        if isinstance(subject, Between):
            ends = (view.behaviour(subject.af).alias for view in (self.mine, self.theirs))
            return "between {} and {}".format(*ends)
        return f"towards {subject.exit.address}" if isinstance(subject, Inbound) else f"{subject.one} {subject.other}"
