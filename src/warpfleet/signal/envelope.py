"""Sealed envelopes: one message, signed by its sender and encrypted to its recipient. Pure: `now` is an argument.

Layout, all of it sealed to the recipient: signature (64 bytes), then what it covers besides the recipient's key:
version (1), sender's key (32), message id (16), transmission (1), expiry (8, milliseconds since 1970, big-endian),
connection id and kind (each a length byte and UTF-8), and the message as JSON.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush

from pydantic import ValidationError

from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import SIGNATURE_BYTES, Identity, PublicIdentity, UnsealError, node_id_of
from warpfleet.signal.messages import MessageTypes, ProtoMessage

MESSAGE_ID_BYTES = 16  # random: 128 bits do not collide
MAX_ENVELOPE_BYTES = 65_536  # candidates and ports are a few hundred bytes; above this nothing is even unsealed
MAX_TRANSMISSION = 255  # one byte; later transmissions share it
MAX_CLOCK_SKEW_S = 60.0  # hosts without NTP are seconds off, not minutes
MAX_LIFETIME_S = 300.0  # no attempt lasts longer; it bounds what the replay guard remembers

_VERSION = 1
_TEXT_MAX_BYTES = 255  # its length is one byte
_DOMAIN = b"warpfleet signal 1\0"  # a signature over a signal is never one over anything else
_HEADER = struct.Struct(f">B32s{MESSAGE_ID_BYTES}sBQ")


class EnvelopeError(WarpfleetError):
    """An envelope that is not accepted."""


class NotForUs(EnvelopeError):
    """It was not sealed to this identity, or was changed on its way."""


class Untrusted(EnvelopeError):
    """The sender is not one that the configuration trusts, or its signature is not its own."""


class Expired(EnvelopeError):
    """Its expiry has passed, or lies too far ahead."""


class Malformed(EnvelopeError):
    """It does not follow the layout, or its message does not follow its model."""


class UnknownKind(EnvelopeError):
    """No message class is registered for its kind."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an envelope says about its message. `expires_at` is in seconds since 1970."""

    message_id: bytes
    connection_id: str
    expires_at: float
    transmission: int = 1


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope that was accepted."""

    sender: PublicIdentity
    header: Header
    message: ProtoMessage


def seal(message: ProtoMessage, header: Header, sender: Identity, recipient: PublicIdentity) -> bytes:
    """The envelope, at most MAX_ENVELOPE_BYTES long; ValueError for a message that does not fit."""
    transmission = min(header.transmission, MAX_TRANSMISSION)
    fixed = _HEADER.pack(_VERSION, sender.public.key, header.message_id, transmission, round(header.expires_at * 1000))
    content = b"".join((fixed, _text(header.connection_id), _text(message.kind), message.model_dump_json().encode()))
    envelope = recipient.seal(sender.sign(_covered(recipient, content)) + content)
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise ValueError(f"a {message.kind} message of {len(envelope)} bytes exceeds {MAX_ENVELOPE_BYTES}")
    return envelope


def open_envelope(
    data: bytes, recipient: Identity, trusted: Mapping[str, PublicIdentity], types: MessageTypes, now: float
) -> Opened:
    """Open and check an envelope; `trusted` maps node ids to identities. Whatever `data` is, only an EnvelopeError."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise Malformed(f"{len(data)} bytes are more than an envelope has")
    try:
        plain = recipient.unseal(data)
    except UnsealError as error:
        raise NotForUs(str(error)) from error
    signature, content = plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:]
    if len(content) < _HEADER.size:
        raise Malformed("the header is cut short")
    version, key, message_id, transmission, expires_ms = _HEADER.unpack_from(content)
    if version != _VERSION:
        raise Malformed(f"version {version} is not {_VERSION}")
    sender = trusted.get(node_id_of(key))
    if sender is None or sender.key != key:
        raise Untrusted("the sender is not in the fleet")
    if not sender.verify(signature, _covered(recipient.public, content)):
        raise Untrusted(f"the signature is not {sender.name}'s")
    expires_at = expires_ms / 1000
    check_expiry(expires_at, now)
    connection_id, at = _read_text(content, _HEADER.size)
    kind, at = _read_text(content, at)
    header = Header(message_id, connection_id, expires_at, transmission)
    return Opened(sender, header, read_message(types, kind, content[at:]))


class Freshness(StrEnum):
    """Whether a message was seen before."""

    NEW = "new"
    SEEN = "seen"  # a retransmission or a replay: acknowledged again, never delivered again
    FORGOTTEN = "forgotten"  # too old for what is remembered: neither acknowledged nor delivered


class ReplayGuard:
    """Remembers which messages were seen until they expire, within a bounded memory.

    When it is full it forgets the id that expires first, and from then on refuses unknown ids that expire no later:
    a flood may cost messages, and never lets a replay through.
    """

    def __init__(self, capacity: int = 32_768) -> None:  # 400 messages a second for MAX_CLOCK_SKEW_S and a deadline
        self._capacity = capacity
        self._seen: set[tuple[bytes, bytes]] = set()
        self._expiries: list[tuple[float, tuple[bytes, bytes]]] = []
        self._forgotten_until = 0.0

    def admit(self, opened: Opened, now: float) -> Freshness:
        """Say whether the message is new, and remember it. A message id counts per sender."""
        while self._expiries and self._expiries[0][0] + MAX_CLOCK_SKEW_S < now:
            self._seen.discard(heappop(self._expiries)[1])
        key = (opened.sender.key, opened.header.message_id)
        if key in self._seen:
            return Freshness.SEEN
        if opened.header.expires_at <= self._forgotten_until:
            return Freshness.FORGOTTEN
        self._seen.add(key)
        heappush(self._expiries, (opened.header.expires_at, key))
        if len(self._seen) > self._capacity:
            self._forgotten_until, oldest = heappop(self._expiries)
            self._seen.discard(oldest)
        return Freshness.NEW

    def __len__(self) -> int:
        return len(self._seen)


def _covered(recipient: PublicIdentity, content: bytes) -> bytes:
    return _DOMAIN + recipient.key + content


def check_expiry(expires_at: float, now: float) -> None:
    """Expired where it has passed, or lies too far ahead."""
    if now > expires_at + MAX_CLOCK_SKEW_S:
        raise Expired(f"expired {now - expires_at:.1f} s ago")
    if expires_at > now + MAX_LIFETIME_S + MAX_CLOCK_SKEW_S:
        raise Expired(f"its expiry lies {expires_at - now:.0f} s ahead")


def check_text(text: str) -> str:
    """The same. ValueError where it is longer than an envelope takes."""
    if len(text.encode()) > _TEXT_MAX_BYTES:
        raise ValueError(f"{text[:20]!r}... is longer than {_TEXT_MAX_BYTES} bytes")
    return text


def _text(text: str) -> bytes:
    data = check_text(text).encode()
    return bytes((len(data),)) + data


def _read_text(content: bytes, at: int) -> tuple[str, int]:
    try:
        end = at + 1 + content[at]
        if end > len(content):
            raise Malformed("a text is cut short")
        return content[at + 1 : end].decode(), end
    except (IndexError, UnicodeDecodeError) as error:
        raise Malformed("a text is cut short or not UTF-8") from error


def read_message(types: MessageTypes, kind: str, body: bytes) -> ProtoMessage:
    """The message of a kind. UnknownKind, Malformed."""
    message_class = types.get(kind)
    if message_class is None:
        raise UnknownKind(f"no message of kind {kind!r} is registered")
    try:
        return message_class.model_validate_json(body)
    except ValidationError as error:
        raise Malformed(f"the {kind} message does not follow its model: {error.error_count()} errors") from error
