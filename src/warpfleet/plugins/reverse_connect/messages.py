"""Messages of reverse connect."""

from typing import ClassVar

from pydantic import Field

from warpfleet.plugins.attempt_messages import AttemptMessage, EndpointText
from warpfleet.plugins.head_start import Opening
from warpfleet.plugins.streams import TARGETS_MAX


class DialMe(AttemptMessage):
    """Please dial one of these `ip:port` endpoints of mine; where you surely can, this is what I say first."""

    kind: ClassVar[str] = "reverse_connect.dial_me"
    opens: ClassVar[bool] = True

    endpoints: tuple[EndpointText, ...] = Field(min_length=1, max_length=TARGETS_MAX)
    opening: Opening | None = None
