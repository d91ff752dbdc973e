"""Messages of the signal channel, and the registry that knows their kinds."""

from collections.abc import Iterable
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from warpfleet.core.errors import InputError


class ProtoMessage(BaseModel):
    """Base of every message that nodes exchange; a plugin's messages derive from it and state their `kind`.

    `kind` is ASCII, at most 64 characters, unique in a fleet: by custom `plugin.message`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    kind: ClassVar[str]


class Ack(ProtoMessage):
    """The receiver's word that a message arrived; it names the very transmission, so that its round trip is exact."""

    kind: ClassVar[str] = "ack"

    message_id: bytes
    transmission: int


class MessageTypes:
    """Which class a kind stands for. Built-in kinds are there from the start."""

    _MAX_KIND_CHARS = 64

    def __init__(self, messages: Iterable[type[ProtoMessage]] = ()) -> None:
        self._classes: dict[str, type[ProtoMessage]] = {}
        self.register(Ack)
        for message in messages:
            self.register(message)

    def register(self, message: type[ProtoMessage]) -> None:
        """Add a class. InputError where it states no usable kind, or its kind is another class's already."""
        kind = getattr(message, "kind", "")
        if not kind or not kind.isascii() or len(kind) > self._MAX_KIND_CHARS:
            raise InputError(f"{message.__qualname__}.kind must be 1 to {self._MAX_KIND_CHARS} ASCII characters")
        if self._classes.setdefault(kind, message) is not message:
            other = self._classes[kind]
            raise InputError(
                f"{message.__module__}.{message.__qualname__}.kind {kind!r} is taken by "
                f"{other.__module__}.{other.__qualname__}: choose another"
            )

    def get(self, kind: str) -> type[ProtoMessage] | None:
        """The class of a kind, or None."""
        return self._classes.get(kind)
