"""Messages of direct connect: what both sides would say first on the stream, on its way while the stream is dialled."""

from typing import ClassVar

from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.head_start import Opening


class Greeting(AttemptMessage):
    """The initiator's opening."""

    kind: ClassVar[str] = "direct_connect.greeting"
    opens: ClassVar[bool] = True

    opening: Opening


class Answer(AttemptMessage):
    """The responder's opening."""

    kind: ClassVar[str] = "direct_connect.answer"

    opening: Opening
