"""PCP and NAT-PMP on the wire, as the RFCs draw them; what is no answer; when a gateway has lost its state."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.portmap import natpmp, pcp
from warpfleet.net.portmap.epoch import Epoch
from warpfleet.net.portmap.mapping import MappingRefused

NONCE = bytes(range(12))
V4_MAPPED = b"\0" * 10 + b"\xff\xff"
EXTERNAL = Endpoint("203.0.113.7", 4321)


def pcp_answer(*, opcode: int = 1, result: int = 0, nonce: bytes = NONCE, protocol: int = 6, port: int = 4444) -> bytes:
    head = struct.pack("!BBBBII12x", 2, 0x80 | opcode, 0, result, 600, 1000)
    address = V4_MAPPED + bytes((203, 0, 113, 7))
    return head + nonce + struct.pack("!B3xHH", protocol, port, EXTERNAL.port) + address


def natpmp_answer(*, opcode: int = 2, result: int = 0, port: int = 4444) -> bytes:
    return struct.pack("!BBHIHHI", 0, 128 + opcode, result, 1000, port, EXTERNAL.port, 600)


def test_a_pcp_map_request() -> None:
    request = pcp.map_request("192.168.1.2", NONCE, 4444, Endpoint("0.0.0.0", 5555), 600)
    assert request[:8] == b"\x02\x01\0\0" + struct.pack("!I", 600)  # version 2, opcode MAP
    assert request[8:24] == V4_MAPPED + bytes((192, 168, 1, 2))
    assert request[24:36] == NONCE
    assert request[36:44] == struct.pack("!B3xHH", 6, 4444, 5555)
    assert request[44:] == V4_MAPPED + bytes(4)


def test_a_pcp_announce_request_is_a_bare_head() -> None:
    assert pcp.announce_request("2001:db8::2") == b"\x02" + bytes(7) + bytes.fromhex("20010db8" + "0" * 23 + "2")


def test_a_pcp_answer() -> None:
    assert pcp.parse_mapped(pcp_answer(), NONCE, 4444) == pcp.Mapped(1000, EXTERNAL, 600)
    assert pcp.parse_announced(pcp_answer(opcode=0)[:24]) == 1000


@pytest.mark.parametrize(
    "data",
    [
        pcp_answer(nonce=bytes(12)),
        pcp_answer(port=4445),
        pcp_answer(protocol=17),
        pcp_answer(opcode=2),
        pcp_answer()[:-1],
        pcp_answer() + b"\0",
        b"\0" + pcp_answer()[1:],
        pcp_answer()[:1] + b"\x01" + pcp_answer()[2:],
        pcp_answer(nonce=bytes(12), result=2),
        pcp_answer() + bytes(1100),
    ],
)
def test_what_is_no_answer_to_this_pcp_request_is_none(data: bytes) -> None:
    assert pcp.parse_mapped(data, NONCE, 4444) is None


def test_a_pcp_refusal_has_its_code() -> None:
    with pytest.raises(MappingRefused, match="PCP result 2: NOT_AUTHORIZED"):
        pcp.parse_mapped(pcp_answer(result=2), NONCE, 4444)


def test_natpmp_requests() -> None:
    assert natpmp.address_request() == b"\0\0"
    assert natpmp.map_request(4444, 5555, 600) == b"\0\x02\0\0" + struct.pack("!HHI", 4444, 5555, 600)


def test_natpmp_answers() -> None:
    assert natpmp.parse_mapped(natpmp_answer(), 4444) == natpmp.Mapped(1000, 4444, EXTERNAL.port, 600)
    address = struct.pack("!BBHI4s", 0, 128, 0, 1000, bytes((203, 0, 113, 7)))
    assert natpmp.parse_address(address) == natpmp.ExternalAddress(1000, EXTERNAL.ip)


@pytest.mark.parametrize("data", [natpmp_answer(port=1), natpmp_answer(opcode=1), natpmp_answer()[:-1], b"\0\x82", b""])
def test_what_is_no_answer_to_this_natpmp_request_is_none(data: bytes) -> None:
    assert natpmp.parse_mapped(data, 4444) is None


def test_a_natpmp_refusal_may_be_as_short_as_its_head() -> None:
    with pytest.raises(MappingRefused, match="NAT-PMP result 2: not authorized"):
        natpmp.parse_mapped(natpmp_answer(result=2)[:8], 4444)


# Beside any, the lengths that answers have: NAT-PMP's two, and PCP's to an ANNOUNCE and to a MAP, without two bytes.
_SIZES = st.sampled_from([10, 14, 22, 58])
_GARBAGE = _SIZES.flatmap(lambda size: st.binary(min_size=size, max_size=size)) | st.binary(max_size=1200)


@given(_GARBAGE, st.sampled_from([b"", b"\x02\x81", b"\x02\x80", b"\0\x80", b"\0\x82"]))
def test_garbage_is_no_answer(garbage: bytes, head: bytes) -> None:
    data = head + garbage
    for begins, parse in (
        (b"\x02\x81", lambda data: pcp.parse_mapped(data, b"!" * 12, 4444)),
        (b"\x02\x80", pcp.parse_announced),
        (b"\0\x80", natpmp.parse_address),
        (b"\0\x82", lambda data: natpmp.parse_mapped(data, 4444)),
    ):
        try:
            answered = parse(data) is not None
        except MappingRefused:
            answered = True
        assert not answered or data.startswith(begins)


@given(st.binary(min_size=12, max_size=12), st.integers(1, 65535), st.ip_addresses(), st.integers(0, 65535))
def test_what_a_pcp_server_echoes_is_understood(nonce: bytes, port: int, ip: object, suggested: int) -> None:
    request = pcp.map_request(str(ip), nonce, port, Endpoint(str(ip), suggested), 600)
    answer = struct.pack("!BBBBII12x", 2, 0x81, 0, 0, 600, 5) + request[24:]
    mapped = pcp.parse_mapped(answer, nonce, port)
    assert mapped
    assert mapped.external.port == suggested


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        ([(100, 0.0), (400, 300.0)], False),
        ([(100, 0.0), (381, 300.0)], False),  # a sixteenth slow, and a second off
        ([(100, 0.0), (99, 0.5)], False),  # out of order
        ([(100, 0.0), (0, 300.0)], True),  # began anew
        ([(100, 0.0), (250, 300.0)], True),  # began anew a while ago
        ([(100, 0.0), (900, 300.0)], True),  # ours is not the gateway that we asked before
        ([(1000, 0.0)], False),
    ],
)
def test_an_epoch_that_does_not_go_by_our_clock_tells_of_lost_mappings(
    answers: list[tuple[int, float]], lost: bool
) -> None:
    epoch = Epoch()
    assert [epoch.lost_state(*answer) for answer in answers][-1] is lost
