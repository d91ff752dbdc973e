"""What a line of a laboratory does to packets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineQuality:
    """In each direction: `delay_ms` one way, up to `jitter_ms` more (each packet as much as chance has it, so that they
    overtake one another), and `loss`, the share of them that gets lost."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0


PERFECT = LineQuality()
