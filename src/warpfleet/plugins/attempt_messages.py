"""What the two sides of an attempt say to each other by signal."""

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.signal.messages import ProtoMessage

TIME_US_BOUND = 2**53
"""The year 2255: what a peer sends must fit the columns of the telemetry, and timers."""
# The usual and the longest budget of the policies that ship: a peer may not hold an attempt open for ever.
_TIMEOUT_S, _TIMEOUT_MAX_S = 15.0, 180.0
_RTT_MAX_MS = 10_000.0  # beyond any path that a person would wait for

AttemptId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class AttemptMessage(ProtoMessage):
    """Base of the messages between the two sides of one attempt. The envelope around it names the connection.

    The first message of a kind that `opens` makes the responder's side of the attempt, which has as long as the
    initiator's, `timeout_s` seconds.
    """

    opens: ClassVar[bool] = False

    attempt_id: AttemptId
    af: Literal[4, 6]
    route: RouteType
    started_at_us: int = Field(ge=0, lt=TIME_US_BOUND)
    timeout_s: float = Field(default=_TIMEOUT_S, gt=0, le=_TIMEOUT_MAX_S)
    rtt_ms: float | None = Field(default=None, ge=0, le=_RTT_MAX_MS)


class Abandon(AttemptMessage):
    """This side has given the attempt up, so that the other need not wait for its timeout."""

    kind: ClassVar[str] = "attempt.abandon"

    plugin: str


def _checked_endpoint(text: str) -> str:
    if not 0 < Endpoint.parse(text).port < 65536:
        raise ValueError("the port must be 1 to 65535")
    return text


EndpointText = Annotated[str, AfterValidator(_checked_endpoint)]
"""A peer's `ip:port`, checked when its message is read."""

M = TypeVar("M", bound=AttemptMessage)
