"""Whether a direct path may be used: consent (RFC 7675) kept fresh, and a way back that does not flap."""

from collections.abc import Callable
from enum import Enum
from math import inf

# RFC 7675 section 5.1: checks 5 s apart, each interval times 0.8 to 1.2, and 30 s without an answer end the consent.
CHECK_S = 5.0
_JITTER = 0.2
EXPIRY_S = 30.0
# An application should not wait for 30 s. A check that is not answered is repeated, and after four in vain the path is
# left: where one packet in twenty is lost, that befalls a good path once in ten thousand checks. A path that takes more
# than 2 s there and back is no better than a relay.
_REPEAT_S = 0.5
_PATIENCE_S = 2.0
# What is sent is answered within a round trip, if only by an acknowledgement: silence that follows it is checked.
_SILENCE_S = 1.0
# A path that was left has to be good for so long before it is used again, each time for twice as long; once it has been
# in use for the longest of these times, it starts anew.
HOLD_S = 10.0
HOLD_MAX_S = 320.0

LEFT_AFTER_S = CHECK_S * (1 + _JITTER) + _PATIENCE_S
"""A path that has died is left within so many seconds."""
LEFT_IN_USE_AFTER_S = _SILENCE_S + _PATIENCE_S
"""One that something is sent through is left within so many seconds after that."""


class State(Enum):
    """What a direct path is good for."""

    GOOD = "good"  # to be used
    DOUBTFUL = "doubtful"  # left, and checked, until it has been good for long enough or its consent has expired
    EXPIRED = "expired"  # nothing may be sent through it any more


class Consent:
    """One direct path that has just been proved. `advance` tells when to check it. `chance` is from 0 to 1; times are
    seconds of one clock."""

    def __init__(self, now_s: float, chance: Callable[[], float]) -> None:
        self._chance = chance
        self.state = State.GOOD
        self._good_since_s = now_s  # inf: it does not answer
        self._hold_s = HOLD_S
        self._answered_s = now_s
        self._unanswered_s: float | None = None  # the first check since then
        self._sent_s: float | None = None  # the first of what was sent since something was heard
        self._check_s = now_s + self._interval_s()

    def sent(self, now_s: float) -> None:
        """Something has been sent through it."""
        if self._sent_s is None:
            self._sent_s = now_s

    def heard(self) -> None:
        """Something came through it. That calms, but is no consent: anybody may have sent it."""
        self._sent_s = None

    def answered(self, now_s: float) -> None:
        """The peer has answered a check."""
        if self.state is State.EXPIRED:
            return
        if self._unanswered_s is not None:
            self._check_s = max(self._check_s, now_s + self._interval_s())
        self._answered_s, self._unanswered_s, self._sent_s = now_s, None, None
        self._good_since_s = min(self._good_since_s, now_s)
        good_s = now_s - self._good_since_s
        if self.state is State.GOOD and good_s >= HOLD_MAX_S:
            self._hold_s = HOLD_S
        elif self.state is State.DOUBTFUL and good_s >= self._hold_s:
            self.state, self._good_since_s = State.GOOD, now_s
            self._hold_s = min(2 * self._hold_s, HOLD_MAX_S)

    def advance(self, now_s: float) -> bool:
        """Judge the path as of now; whether to send a check through it."""
        if now_s < self.due_s():
            return False
        if now_s >= self._answered_s + EXPIRY_S:  # the sum that `due_s` has: a difference may be rounded below it
            self.state = State.EXPIRED
            return False
        unanswered_s = now_s if self._unanswered_s is None else self._unanswered_s
        if self.state is State.DOUBTFUL and unanswered_s < now_s:
            self._good_since_s = inf
        if self.state is State.GOOD and now_s >= unanswered_s + _PATIENCE_S:
            self.state, self._good_since_s = State.DOUBTFUL, inf
        self._unanswered_s = unanswered_s
        self._sent_s = None
        self._check_s = now_s + (_REPEAT_S if self.state is State.GOOD else self._interval_s())
        return True

    def due_s(self) -> float:
        """When `advance` has to be called at the latest."""
        if self.state is State.EXPIRED:
            return inf
        times_s = [self._check_s, self._answered_s + EXPIRY_S]
        if self.state is State.GOOD and self._unanswered_s is None and self._sent_s is not None:
            times_s.append(self._sent_s + _SILENCE_S)
        return min(times_s)

    def _interval_s(self) -> float:
        return CHECK_S * (1 - _JITTER + 2 * _JITTER * self._chance())
