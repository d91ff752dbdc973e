"""Identities: signing, sealing, and what they never show."""

import pickle

import pytest

from warpfleet.core.identity import Identity, PublicIdentity, UnsealError

ALICE = Identity.generate("alice", bytes(range(32)))
BOB = Identity.from_seed("bob", bytes(range(32, 64)))


def test_a_signature_is_of_one_key_over_one_text() -> None:
    signature = ALICE.sign(b"text")
    assert len(signature) == 64
    assert ALICE.public.verify(signature, b"text")
    assert not ALICE.public.verify(signature, b"other")
    assert not BOB.public.verify(signature, b"text")
    assert not ALICE.public.verify(b"", b"text")


def test_rfc_8032_test_vector() -> None:
    """RFC 8032 section 7.1, TEST 2."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    identity = Identity.from_seed("vector", seed)
    assert identity.public.key.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert identity.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")


def test_what_is_sealed_opens_for_its_recipient_alone() -> None:
    sealed = BOB.public.seal(b"secret")
    assert BOB.unseal(sealed) == b"secret"
    with pytest.raises(UnsealError):
        ALICE.unseal(sealed)
    with pytest.raises(UnsealError):
        BOB.unseal(sealed[:-1])


def test_the_seed_never_shows_and_travels_by_pickle() -> None:
    ALICE.sign(b"fills the caches")
    assert repr(ALICE) == "Identity(name='alice')"
    assert pickle.loads(pickle.dumps(ALICE)) == ALICE
    assert pickle.loads(pickle.dumps(ALICE.public)) == ALICE.public


def test_node_ids_are_short_distinct_and_fit_a_topic() -> None:
    ids = {ALICE.public.node_id, BOB.public.node_id}
    assert len(ids) == 2
    assert all(len(node_id) == 32 and node_id.isalnum() and node_id == node_id.lower() for node_id in ids)


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32])
def test_a_key_that_is_no_curve_point_verifies_nothing_and_seals_nothing(key: bytes) -> None:
    odd = PublicIdentity("odd", key)
    assert not odd.verify(bytes(64), b"text")
    with pytest.raises(ValueError, match="odd"):
        odd.seal(b"text")


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed("x", b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        PublicIdentity("x", b"short")
