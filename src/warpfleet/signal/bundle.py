"""Several messages to one peer in one envelope: what is said in one turn costs one signature, one seal, one packet."""

import secrets
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from warpfleet.signal.envelope import (
    MAX_ENVELOPE_BYTES,
    MAX_TRANSMISSION,
    MESSAGE_ID_BYTES,
    EnvelopeError,
    Header,
    Malformed,
    Opened,
    check_expiry,
    check_text,
    read_message,
)
from warpfleet.signal.messages import MessageTypes, ProtoMessage

# Half of what an envelope holds: JSON within JSON has each quotation mark escaped.
_BODIES_MAX_BYTES = MAX_ENVELOPE_BYTES // 2
_PART_BYTES = 200  # of a part besides its texts
_ESCAPED_MAX = 6  # bytes that JSON makes of one of a text that is none
_PARTS_MAX = 64  # two of each connection in a large crowd: so few that a signature is no lever


class Letter(NamedTuple):
    """A message, and what an envelope says about it."""

    header: Header
    message: ProtoMessage


class Part(BaseModel):
    """One letter of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    message_id: Annotated[bytes, Field(min_length=MESSAGE_ID_BYTES, max_length=MESSAGE_ID_BYTES)]
    connection_id: Annotated[str, AfterValidator(check_text)]
    expires_at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    transmission: Annotated[int, Field(ge=0, le=MAX_TRANSMISSION)]
    kind: str
    body: str


class Bundle(ProtoMessage):
    """Letters, each as if it had come in an envelope of its own."""

    kind: ClassVar[str] = "bundle"

    parts: Annotated[tuple[Part, ...], Field(max_length=_PARTS_MAX)]


def bundled(letters: Iterable[Letter]) -> Iterator[Letter]:
    """The same in fewer letters, in this order; one that is alone stays as it is."""
    together: list[tuple[Letter, Part]] = []
    bodies_bytes = 0
    for letter in letters:
        part = _part(letter)
        part_bytes = len(part.body.encode()) + _ESCAPED_MAX * len(part.connection_id.encode()) + _PART_BYTES
        if together and (bodies_bytes + part_bytes > _BODIES_MAX_BYTES or len(together) == _PARTS_MAX):
            yield _one(together)
            together, bodies_bytes = [], 0
        together.append((letter, part))
        bodies_bytes += part_bytes
    if together:
        yield _one(together)


def unbundled(opened: Opened, types: MessageTypes, now: float) -> Iterator[Opened | EnvelopeError]:
    """What an envelope brings. A part that is not accepted takes nothing from the others."""
    if not isinstance(opened.message, Bundle):
        yield opened
        return
    for part in opened.message.parts:
        try:
            check_expiry(part.expires_at, now)
            if part.kind == Bundle.kind:
                raise Malformed("a bundle within a bundle")
            message = read_message(types, part.kind, part.body.encode())
        except EnvelopeError as error:
            yield error
        else:
            header = Header(part.message_id, part.connection_id, part.expires_at, part.transmission)
            yield Opened(opened.sender, header, message)


def _part(letter: Letter) -> Part:
    header, message = letter
    return Part(
        message_id=header.message_id,
        connection_id=header.connection_id,
        expires_at=header.expires_at,
        transmission=min(header.transmission, MAX_TRANSMISSION),
        kind=message.kind,
        body=message.model_dump_json(),
    )


def _one(together: list[tuple[Letter, Part]]) -> Letter:
    if len(together) == 1:
        return together[0][0]
    expires_at = max(letter.header.expires_at for letter, _ in together)
    header = Header(secrets.token_bytes(MESSAGE_ID_BYTES), "", expires_at)
    return Letter(header, Bundle(parts=tuple(part for _, part in together)))
