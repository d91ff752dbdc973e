"""Whether a gateway has lost its mappings, from the epoch time in its answers (RFC 6887 section 8.5)."""


class Epoch:
    """One gateway's epoch time, as it went by ours. Pure."""

    def __init__(self) -> None:
        self._seen: tuple[int, float] | None = None

    def lost_state(self, epoch_s: int, now_s: float) -> bool:
        """Take the epoch time of an answer; whether what was mapped before it is gone."""
        seen, self._seen = self._seen, (epoch_s, now_s)
        if seen is None:
            return False
        theirs_s, ours_s = epoch_s - seen[0], now_s - seen[1]
        if theirs_s < -1:
            return True
        return ours_s + 2 < theirs_s - theirs_s / 16 or theirs_s + 2 < ours_s - ours_s / 16
