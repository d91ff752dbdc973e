"""Address records: what is signed, and which one the book keeps."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.identity import Identity
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_range import PortRange
from warpfleet.signal.record import (
    MAX_CLOCK_SKEW_S,
    MAX_RECORD_BYTES,
    AddressRecord,
    InterfaceAddress,
    ListenerAddress,
    NatRecord,
    RecordBook,
    RecordError,
    SignedRecord,
)

NOW = 1_800_000_000.0
ALICE, EVE = (Identity.generate(name, bytes([n]) * 32) for n, name in enumerate(("alice", "eve")))
NAT = NatBehaviour(
    mapping=Mapping.APDM,
    filtering=Filtering.APDF,
    port_assignment=PortAssignment.SEQUENTIAL,
    port_delta=2,
    port_range=PortRange(40_000, 41_023),
    hairpin=False,
    lifetime_s=30.0,
    translated=True,
    udp=True,
)


def record(seq: int = 1, expires_at: float = NOW + 60) -> AddressRecord:
    return AddressRecord(
        name="alice",
        node_id=ALICE.public.node_id,
        seq=seq,
        issued_at=NOW,
        expires_at=expires_at,
        machine="m",
        interfaces=(
            InterfaceAddress(ip="192.168.1.2", prefix_len=24),
            InterfaceAddress(ip="2001:DB8::1", prefix_len=64),
        ),
        external={4: "192.0.2.1"},
        listeners=(ListenerAddress(ip="0.0.0.0", port=443),),
        nat={4: NatRecord.of(NAT)},
        relay=True,
        standing={"udp_punch": {4: 40_000}},
    )


def signed(seq: int = 1, expires_at: float = NOW + 60) -> bytes:
    return SignedRecord.sign(record(seq, expires_at), ALICE).encode()


def test_a_record_travels_whole() -> None:
    back = SignedRecord.decode(signed()).verify(ALICE.public)
    assert back == record()
    assert back.nat[4].value == NAT
    assert back.interfaces[1].ip == "2001:db8::1", "addresses are in canonical form"


def with_nat(**facts: Any) -> SignedRecord:
    """Alice's record, where what is said of her NAT is changed; None leaves it out."""
    content = json.loads(record().model_dump_json())
    nat = content["nat"]["4"] | facts
    content["nat"]["4"] = {key: fact for key, fact in nat.items() if fact is not None}
    body = json.dumps(content).encode()
    return SignedRecord(ALICE.sign(b"warpfleet record 1\0" + body), body)


def with_standing(standing: object) -> SignedRecord:
    """Alice's record with this in the place of her standing ports; None leaves it out, as older nodes do."""
    return changed(standing=standing)


def changed(**facts: object) -> SignedRecord:
    """Alice's record with other facts, or without."""
    content = json.loads(record().model_dump_json()) | facts
    body = json.dumps({key: fact for key, fact in content.items() if fact is not None}).encode()
    return SignedRecord(ALICE.sign(b"warpfleet record 1\0" + body), body)


def test_a_record_that_says_nothing_of_a_block_of_ports_is_one() -> None:
    assert with_nat(port_range=None).verify(ALICE.public).nat[4].value.port_range is None


@pytest.mark.parametrize("ports", [[41_023, 40_000], [0, 65_535], [40_000], [40_000, "x"], 40_000])
def test_a_block_that_is_none_makes_the_record_malformed(ports: object) -> None:
    with pytest.raises(RecordError, match="malformed"):
        with_nat(port_range=ports).verify(ALICE.public)


@pytest.mark.parametrize(("ports", "read"), [({}, {}), ({"4": 1}, {4: 1}), ({"6": 65_535}, {6: 65_535})])
def test_a_record_may_say_where_a_plugin_of_the_node_always_hears(ports: dict[str, int], read: dict[int, int]) -> None:
    assert with_standing(None).verify(ALICE.public).standing == {}
    assert with_standing({"udp_punch": ports}).verify(ALICE.public).standing == {"udp_punch": read}


@pytest.mark.parametrize("ports", [{"4": 0}, {"6": 65_536}, {"5": 1}, {"4": "x"}, [4], 4])
def test_a_port_that_is_none_makes_the_record_malformed(ports: object) -> None:
    for standing in ({"udp_punch": ports}, ports):
        with pytest.raises(RecordError, match="malformed"):
            with_standing(standing).verify(ALICE.public)


def test_an_address_with_a_zone_makes_the_record_malformed() -> None:
    with pytest.raises(RecordError, match="malformed"):
        changed(external={"6": "2001:db8::1%7"}).verify(ALICE.public)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_byte_can_be_changed(position: int, flip: int) -> None:
    data = bytearray(signed())
    data[position % len(data)] ^= flip
    with pytest.raises(RecordError):
        SignedRecord.decode(bytes(data)).verify(ALICE.public)


@given(st.binary(max_size=400))
def test_garbage_is_a_record_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        RecordBook().put(data, ALICE.public, NOW)
    body = ALICE.sign(b"warpfleet record 1\0" + data) + data
    with pytest.raises(RecordError):
        RecordBook().put(body, ALICE.public, NOW)


def test_nobody_signs_for_another() -> None:
    with pytest.raises(ValueError, match="eve cannot sign"):
        SignedRecord.sign(record(), EVE)
    with pytest.raises(RecordError, match="not signed by eve"):
        SignedRecord.decode(signed()).verify(EVE.public)
    body = record().model_dump_json().encode()
    forged = SignedRecord(EVE.sign(b"warpfleet record 1\0" + body), body)
    with pytest.raises(RecordError, match="eve signed a record of alice"):
        forged.verify(EVE.public)


def test_a_record_too_long_to_send_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        SignedRecord.sign(record().model_copy(update={"machine": "m" * MAX_RECORD_BYTES}), ALICE)


def test_the_book_keeps_the_highest_sequence_number() -> None:
    book = RecordBook()
    assert book.put(signed(2), ALICE.public, NOW).seq == 2
    with pytest.raises(RecordError, match="not newer"):
        book.put(signed(1), ALICE.public, NOW)
    assert book.put(signed(3), ALICE.public, NOW).seq == 3
    with pytest.raises(RecordError, match="not newer"):
        book.put(signed(2), ALICE.public, NOW)
    assert book.get("alice", NOW) == record(3)
    assert book.put(signed(3), ALICE.public, NOW).seq == 3, "the same record again is no error"


@pytest.mark.parametrize("expires_at", [NOW - MAX_CLOCK_SKEW_S - 1, NOW + 90_000])
def test_the_book_refuses_what_has_expired_or_never_does(expires_at: float) -> None:
    with pytest.raises(RecordError, match="expire"):
        RecordBook().put(signed(1, expires_at), ALICE.public, NOW)


def test_a_record_in_the_book_expires() -> None:
    book = RecordBook()
    book.put(signed(), ALICE.public, NOW)
    assert book.get("alice", NOW + 60) is not None
    assert book.get("alice", NOW + 61 + MAX_CLOCK_SKEW_S) is None
    assert book.get("bob", NOW) is None
