"""Where a sweep stands."""

import time
from dataclasses import dataclass, field

from warpfleet.core.combo import ConnectionOutcome


@dataclass(slots=True)
class Progress:
    """Where a sweep stands."""

    total: int
    in_flight: int = 0
    began_s: float = field(default_factory=time.monotonic)
    outcomes: dict[ConnectionOutcome, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many connections have ended."""
        return sum(self.outcomes.values())

    @property
    def rate_per_s(self) -> float:
        """Ended connections a second."""
        return self.done / max(time.monotonic() - self.began_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate; None before the first connection has ended."""
        return (self.total - self.done) / self.rate_per_s if self.done else None

    def count(self, outcome: ConnectionOutcome) -> int:
        """How many ended so."""
        return self.outcomes.get(outcome, 0)
