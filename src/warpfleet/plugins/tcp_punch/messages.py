"""Messages of the TCP punch."""

from typing import ClassVar

from pydantic import Field

from warpfleet.plugins.attempt_messages import TIME_US_BOUND, AttemptMessage, EndpointText
from warpfleet.plugins.tcp_punch.plan import CANDIDATES_MAX


class Told(AttemptMessage):
    """The sender's candidate endpoints for one meeting, as `ip:port`, as far as it knows them: none at first, perhaps,
    and more later. `sent_at_us` is its clock, in microseconds since 1970 (UTC)."""

    meeting: int = Field(ge=0)
    candidates: tuple[EndpointText, ...] = Field(max_length=CANDIDATES_MAX)
    sent_at_us: int = Field(ge=0, lt=TIME_US_BOUND)


class Offer(Told):
    """What the initiator tells."""

    kind: ClassVar[str] = "tcp_punch.offer"
    opens: ClassVar[bool] = True


class Answer(Told):
    """What the responder tells. `took_us` is how long the initiator's last word took, by the clocks of both: with the
    same of this one, their difference cancels out."""

    kind: ClassVar[str] = "tcp_punch.answer"

    took_us: int = Field(gt=-TIME_US_BOUND, lt=TIME_US_BOUND)
