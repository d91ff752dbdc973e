"""When to try again: exponential delays with jitter, as a value."""

from collections.abc import Callable, Iterator

_FACTOR = 2.0  # RFC 6298 section 5.5: back off the timer
_JITTER = 0.25  # up to a quarter is taken off a delay, so that a fleet that lost one broker does not return in step


def retry_delays(first_s: float, cap_s: float, uniform: Callable[[], float]) -> Iterator[float]:
    """Endless delays in seconds: `first_s`, doubling up to `cap_s`, each shortened by up to a quarter.

    `uniform` gives numbers of [0, 1): the only source of chance.
    """
    delay_s = first_s
    while True:
        bounded_s = min(delay_s, cap_s)
        yield bounded_s * (1 - _JITTER * uniform())
        delay_s = bounded_s * _FACTOR


class RoundTrip:
    """A smoothed round-trip time, and the wait before a first retransmission that follows from it."""

    MIN_RETRY_S = (
        0.2  # below it a busy event loop looks like a loss; losses are rare, since brokers are reached over TCP
    )
    MAX_RETRY_S = 1.0  # RFC 6298 section 2.4: a timer's floor there, its ceiling here: attempts last seconds
    UNKNOWN_RETRY_S = 0.3  # no sample yet: twice a signal across a continent
    _LEAST = 1.5  # round trips, of which jitter may take a quarter: an earlier timer sends everything twice
    _GAIN = 1 / 8  # RFC 6298 section 2.3

    def __init__(self) -> None:
        self.smoothed_s: float | None = None

    def sample(self, rtt_s: float) -> None:
        """Take one measured round trip, in seconds."""
        if self.smoothed_s is None:
            self.smoothed_s = rtt_s
        else:
            self.smoothed_s += self._GAIN * (rtt_s - self.smoothed_s)

    @property
    def retry_s(self) -> float:
        """How long to wait for an acknowledgement before sending again: twice the round trip, within bounds, and longer
        than one in any case."""
        if self.smoothed_s is None:
            return self.UNKNOWN_RETRY_S
        bounded_s = min(max(2 * self.smoothed_s, self.MIN_RETRY_S), self.MAX_RETRY_S)
        return max(bounded_s, self._LEAST * self.smoothed_s)
