"""How an attempt says that it cannot succeed."""

from warpfleet.core.combo import Reason
from warpfleet.core.errors import WarpfleetError


class AttemptFailed(WarpfleetError):
    """The attempt cannot succeed, for a reason of the closed vocabulary."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        super().__init__(message or reason.value)
        self.reason = reason
