"""The question for a peer's address record and its answer, which two plugins share."""

from typing import ClassVar

from warpfleet.plugins.attempt_messages import AttemptMessage


class GetAddr(AttemptMessage):
    """Send me your current address record."""

    kind: ClassVar[str] = "get_addr.question"
    opens: ClassVar[bool] = True


class ReturnAddr(AttemptMessage):
    """My current address record, signed and encoded as on the broker."""

    kind: ClassVar[str] = "return_addr.answer"

    signed_record: bytes
