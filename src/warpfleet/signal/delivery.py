"""One message on its way: when to send it again, and what its acknowledgement says. Sans-IO: `now` is an argument.

MQTT's QoS 1 would only bring a message to the broker, and costs 44 ms where a broker leaves Nagle's algorithm on; so
messages go at QoS 0, and are acknowledged and repeated from end to end.
"""

from collections.abc import Callable

from warpfleet.core.retry import RoundTrip, retry_delays

_MAX_RETRY_S = 1.0  # after a broker's restart the next transmission is no further away, or a round trip or two


class Delivery:
    """The transmissions of one message. Times are of one monotonic clock, in seconds; the deadline is the caller's."""

    def __init__(self, round_trip: RoundTrip, uniform: Callable[[], float]) -> None:
        self.due_at = 0.0
        """When to transmit next."""
        self.rtt_s: float | None = None
        """The round trip that the first acknowledgement showed; None until there was one."""
        self._round_trip = round_trip
        first_s = round_trip.retry_s
        self._delays = retry_delays(first_s, max(first_s, _MAX_RETRY_S), uniform)
        self._sent_at: list[float] = []

    def transmit(self, now: float) -> int:
        """Note a transmission and set the time of the next; its number, from 1."""
        self._sent_at.append(now)
        self.due_at = now + next(self._delays)
        return len(self._sent_at)

    def acknowledge(self, transmission: int, now: float) -> bool:
        """Take the acknowledgement of one transmission; whether it settled the delivery.

        It names the transmission, so that its round trip is exact where Karn's algorithm would have to leave it out.
        """
        if self.rtt_s is not None or not 1 <= transmission <= len(self._sent_at):
            return False
        self.rtt_s = now - self._sent_at[transmission - 1]
        self._round_trip.sample(self.rtt_s)
        return True
