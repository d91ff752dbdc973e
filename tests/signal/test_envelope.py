"""Envelopes: only what the sender meant for this recipient opens, and only once."""

from contextlib import suppress
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpfleet.core.errors import InputError
from warpfleet.core.identity import Identity
from warpfleet.signal.envelope import (
    MAX_CLOCK_SKEW_S,
    MAX_ENVELOPE_BYTES,
    MAX_LIFETIME_S,
    EnvelopeError,
    Expired,
    Freshness,
    Header,
    Malformed,
    NotForUs,
    Opened,
    ReplayGuard,
    UnknownKind,
    Untrusted,
    open_envelope,
    seal,
)
from warpfleet.signal.messages import Ack, MessageTypes, ProtoMessage


class Hello(ProtoMessage):
    kind: ClassVar[str] = "test.hello"
    text: str


NOW = 1_800_000_000.0
ALICE, BOB, EVE = (Identity.generate(name, bytes([n]) * 32) for n, name in enumerate(("alice", "bob", "eve")))
TRUSTED = {identity.public.node_id: identity.public for identity in (ALICE, BOB)}
TYPES = MessageTypes([Hello])
HEADER = Header(bytes(16), "connection 1", NOW + 5, transmission=2)


def opened(data: bytes, recipient: Identity = BOB, types: MessageTypes = TYPES, now: float = NOW) -> Opened:
    return open_envelope(data, recipient, TRUSTED, types, now)


@given(st.text(max_size=500), st.binary(min_size=16, max_size=16), st.text(max_size=60), st.integers(1, 255))
def test_what_was_sealed_opens_again(text: str, message_id: bytes, connection_id: str, transmission: int) -> None:
    header = Header(message_id, connection_id, NOW + 5, transmission)
    envelope = opened(seal(Hello(text=text), header, ALICE, BOB.public))
    assert envelope == Opened(ALICE.public, header, Hello(text=text))


def test_nothing_about_the_message_or_its_sender_is_readable_on_the_way() -> None:
    data = seal(Hello(text="legible"), HEADER, ALICE, BOB.public)
    assert not any(part in data for part in (b"legible", b"test.hello", b"connection 1", ALICE.public.key))


def test_another_recipient_cannot_open_it() -> None:
    with pytest.raises(NotForUs):
        opened(seal(Hello(text=""), HEADER, ALICE, BOB.public), recipient=EVE)


def test_a_stranger_is_not_trusted() -> None:
    with pytest.raises(Untrusted, match="not in the fleet"):
        opened(seal(Hello(text=""), HEADER, EVE, BOB.public))


def test_a_message_for_us_that_a_recipient_forwards_is_not_taken_for_one_to_somebody_else() -> None:
    """Bob cannot make Alice's signed words to him look like her words to a third node."""
    carol = Identity.generate("carol", b"c" * 32)
    inner = BOB.unseal(seal(Hello(text="for bob"), HEADER, ALICE, BOB.public))
    with pytest.raises(Untrusted, match="signature"):
        opened(carol.public.seal(inner), recipient=carol)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_of_the_signed_content_can_be_changed(position: int, flip: int) -> None:
    inner = bytearray(BOB.unseal(seal(Hello(text="text"), HEADER, ALICE, BOB.public)))
    inner[position % len(inner)] ^= flip
    with pytest.raises((Untrusted, Malformed)):
        opened(BOB.public.seal(bytes(inner)))


@pytest.mark.parametrize(
    ("ahead_s", "accepted"),
    [
        (-MAX_CLOCK_SKEW_S - 1, False),
        (-MAX_CLOCK_SKEW_S + 1, True),
        (MAX_LIFETIME_S + MAX_CLOCK_SKEW_S - 1, True),
        (MAX_LIFETIME_S + MAX_CLOCK_SKEW_S + 1, False),
    ],
)
def test_expiry_counts_within_the_clock_skew(ahead_s: float, accepted: bool) -> None:
    data = seal(Hello(text=""), Header(bytes(16), "", NOW + ahead_s), ALICE, BOB.public)
    if accepted:
        assert opened(data).header.expires_at == NOW + ahead_s
    else:
        with pytest.raises(Expired):
            opened(data)


def test_an_unregistered_kind_is_named() -> None:
    with pytest.raises(UnknownKind, match=r"test\.hello"):
        opened(seal(Hello(text=""), HEADER, ALICE, BOB.public), types=MessageTypes())


def test_a_message_that_does_not_follow_its_model_is_malformed() -> None:
    class Other(ProtoMessage):
        kind: ClassVar[str] = "test.hello"
        number: int

    with pytest.raises(Malformed, match="model"):
        opened(seal(Other(number=1), HEADER, ALICE, BOB.public))


def test_too_large_a_message_is_refused_at_both_ends() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        seal(Hello(text="x" * MAX_ENVELOPE_BYTES), HEADER, ALICE, BOB.public)
    with pytest.raises(Malformed):
        opened(bytes(MAX_ENVELOPE_BYTES + 1))


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_garbage_raises_only_envelope_errors(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        opened(data)
    with pytest.raises(EnvelopeError):
        opened(BOB.public.seal(data))


@settings(max_examples=300)
@given(st.binary(max_size=120), st.integers(0, 120))
def test_garbage_signed_by_a_trusted_peer_raises_only_envelope_errors(tail: bytes, keep: int) -> None:
    """A trusted peer with a broken or hostile program: valid signature, arbitrary content after a partial header."""
    content = BOB.unseal(seal(Hello(text="text"), HEADER, ALICE, BOB.public))[64:][: 58 + keep % 30] + tail
    signature = ALICE.sign(b"warpfleet signal 1\0" + BOB.public.key + content)
    with suppress(NotForUs, Malformed, Expired, UnknownKind):  # not Untrusted: the signature is right
        assert isinstance(opened(BOB.public.seal(signature + content)).message, Hello)


def envelope(number: int, expires_at: float, sender: Identity = ALICE) -> Opened:
    return Opened(sender.public, Header(number.to_bytes(16, "big"), "", expires_at), Hello(text=""))


def test_a_replay_is_seen_until_it_expires_and_forgotten_after() -> None:
    guard = ReplayGuard()
    message = envelope(1, NOW + 5)
    assert guard.admit(message, NOW) is Freshness.NEW
    assert guard.admit(message, NOW) is Freshness.SEEN
    assert guard.admit(message, NOW + 5 + MAX_CLOCK_SKEW_S) is Freshness.SEEN
    assert guard.admit(envelope(2, NOW + 100), NOW + 6 + MAX_CLOCK_SKEW_S) is Freshness.NEW
    assert len(guard) == 1


def test_message_ids_count_per_sender() -> None:
    guard = ReplayGuard()
    assert guard.admit(envelope(1, NOW + 5, ALICE), NOW) is Freshness.NEW
    assert guard.admit(envelope(1, NOW + 5, BOB), NOW) is Freshness.NEW


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 60)), max_size=200))
def test_a_full_guard_stays_small_and_never_admits_twice(stream: list[tuple[int, float]]) -> None:
    guard = ReplayGuard(capacity=8)
    expiries: dict[int, float] = {}
    admitted: set[int] = set()
    for number, lifetime_s in stream:
        message = envelope(number, expiries.setdefault(number, NOW + lifetime_s))
        if guard.admit(message, NOW) is Freshness.NEW:
            assert number not in admitted
            admitted.add(number)
        assert len(guard) <= 8


def test_a_kind_belongs_to_one_class() -> None:
    class Impostor(ProtoMessage):
        kind: ClassVar[str] = "test.hello"

    TYPES.register(Hello)
    with pytest.raises(InputError, match=r"Impostor.*test\.hello.*Hello"):
        TYPES.register(Impostor)
    with pytest.raises(InputError, match="kind"):
        TYPES.register(ProtoMessage)
    assert TYPES.get("ack") is Ack
