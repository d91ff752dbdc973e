"""Several messages in one envelope: each arrives as if it were alone, and one that is wrong harms no other."""

from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from warpfleet.core.identity import Identity
from warpfleet.signal.bundle import Bundle, Letter, Part, bundled, unbundled
from warpfleet.signal.envelope import (
    MAX_ENVELOPE_BYTES,
    MAX_LIFETIME_S,
    EnvelopeError,
    Expired,
    Header,
    Malformed,
    Opened,
    UnknownKind,
    open_envelope,
    seal,
)
from warpfleet.signal.messages import Ack, MessageTypes, ProtoMessage

NOW = 1_000_000.0
ALICE, BOB = (Identity.generate(name, bytes([n]) * 32) for n, name in enumerate(("alice", "bob")))


class Note(ProtoMessage):
    kind: ClassVar[str] = "bundles.note"

    text: str


TYPES = MessageTypes([Note, Bundle])


def letter(number: int, text: str, *, expires_at: float = NOW + 5, transmission: int = 1) -> Letter:
    header = Header(number.to_bytes(16, "big"), f"connection {number}", expires_at, transmission)
    return Letter(header, Note(text=text))


def arrives(envelope: bytes) -> list[Opened | EnvelopeError]:
    opened = open_envelope(envelope, BOB, {ALICE.public.node_id: ALICE.public}, TYPES, NOW)
    return list(unbundled(opened, TYPES, NOW))


def sent(letters: list[Letter]) -> list[bytes]:
    return [seal(message, header, ALICE, BOB.public) for header, message in bundled(letters)]


def opened(header: Header, message: ProtoMessage) -> Opened:
    return Opened(ALICE.public, header, message)


@given(st.lists(st.text(max_size=20_000).filter(lambda t: len(t.encode()) < 30_000), min_size=1, max_size=6))
def test_each_letter_arrives_as_it_was_in_its_order(texts: list[str]) -> None:
    letters = [letter(number, text, transmission=number) for number, text in enumerate(texts)]
    got = [one for envelope in sent(letters) for one in arrives(envelope)]
    assert got == [opened(*each) for each in letters]


def test_a_crowd_goes_in_one_envelope_and_more_than_it_holds_in_several() -> None:
    assert len(sent([letter(number, "x" * 100) for number in range(32)])) == 1
    assert len(sent([letter(number, "") for number in range(65)])) == 2
    envelopes = sent([letter(number, '"' * 1_000) for number in range(64)])
    assert 1 < len(envelopes) < 8
    assert all(len(envelope) <= MAX_ENVELOPE_BYTES for envelope in envelopes)


def test_a_letter_that_is_alone_needs_no_bundle() -> None:
    (alone,) = bundled([letter(1, "x")])
    assert alone == letter(1, "x")


def part(kind: str = Note.kind, body: str = '{"text":"x"}', expires_at: float = NOW + 5) -> Part:
    return Part(message_id=bytes(16), connection_id="c", expires_at=expires_at, transmission=1, kind=kind, body=body)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (part(kind="bundles.unheard_of"), UnknownKind),
        (part(body="{}"), Malformed),
        (part(kind=Bundle.kind, body='{"parts":[]}'), Malformed),
        (part(kind=Ack.kind, body='{"message_id":"?","transmission":1}'), Malformed),
        (part(expires_at=NOW - 3600), Expired),
        (part(expires_at=NOW + MAX_LIFETIME_S + 3600), Expired),
    ],
)
def test_a_part_that_is_wrong_is_dropped_alone(bad: Part, error: type[EnvelopeError]) -> None:
    header = Header(bytes(16), "", NOW + 5)
    first, dropped, last = unbundled(opened(header, Bundle(parts=(part(), bad, part()))), TYPES, NOW)
    assert first == last == opened(Header(bytes(16), "c", NOW + 5), Note(text="x"))
    assert isinstance(dropped, error)


@pytest.mark.parametrize(
    "field",
    [{"message_id": b"short"}, {"expires_at": float("nan")}, {"transmission": 256}, {"connection_id": "\u00e9" * 128}],
)
def test_what_no_header_could_say_makes_no_part(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Part.model_validate(part().model_dump() | field)
