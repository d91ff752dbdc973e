"""One UDP socket that is lent out: who hears what, and that a loan is as good as a socket of one's own."""

import asyncio

import pytest

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import ATTEMPT_ID, handshakes
from virtual_time import virtual_time
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.shared import Loan, SharedSocket

HERE, BOB, CAROL, STRANGER = (Endpoint(f"203.0.113.{number}", 1000) for number in (1, 2, 3, 4))
OTHER_ID = "b0" * 16


class Bench:
    """A shared socket, and others that send to it."""

    def __init__(self) -> None:
        self.internet = Internet()
        self.socket = FakeUdp(self.internet, HERE)
        self.shared = SharedSocket(self.socket)

    def lend(self, attempt_id: str, remote: Endpoint) -> Loan:
        loan = self.shared.lend(attempt_id, remote)
        assert loan
        return loan

    def send(self, data: bytes, source: Endpoint) -> None:
        FakeUdp(self.internet, source).send_to(data, HERE)


def frame(attempt_id: str) -> bytes:
    return handshakes(attempt_id=attempt_id)[1].opener()


async def silent(loan: Loan) -> bool:
    try:
        async with asyncio.timeout(1):
            await loan.receive()
    except TimeoutError:
        return True
    return False


@virtual_time
async def test_a_frame_goes_to_the_attempt_that_it_names_wherever_it_comes_from() -> None:
    bench = Bench()
    one, two = bench.lend(ATTEMPT_ID, BOB), bench.lend(OTHER_ID, CAROL)
    for attempt_id, source in ((OTHER_ID, STRANGER), (ATTEMPT_ID, CAROL)):
        bench.send(frame(attempt_id), source)
    assert await one.receive() == (frame(ATTEMPT_ID), CAROL)
    assert await two.receive() == (frame(OTHER_ID), STRANGER)


@virtual_time
async def test_what_is_in_a_tunnel_goes_to_whom_speaks_with_its_source() -> None:
    bench = Bench()
    one, two = bench.lend(ATTEMPT_ID, BOB), bench.lend(OTHER_ID, CAROL)
    two.send_to(b"from another port", STRANGER)
    for source in (BOB, CAROL, STRANGER):
        bench.send(str(source).encode(), source)
    assert await one.receive() == (str(BOB).encode(), BOB)
    assert [await two.receive() for _ in range(2)] == [(str(s).encode(), s) for s in (CAROL, STRANGER)]


@virtual_time
@pytest.mark.parametrize("data", [b"", b"\x40 in no tunnel", frame("f0" * 16), b"\x05WF2", bytes(FRAME_BYTES)])
async def test_a_stranger_is_neither_heard_nor_answered(data: bytes) -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID, BOB)
    bench.send(data, STRANGER)
    assert await silent(loan)
    assert bench.socket.packets_sent == 0


@virtual_time
async def test_two_that_speak_with_one_endpoint_cannot_be_told_apart() -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID, BOB)
    assert bench.shared.lend(OTHER_ID, BOB) is None
    assert bench.shared.lend(ATTEMPT_ID, CAROL) is None, "nor two of one attempt"
    loan.close()
    again = bench.lend(OTHER_ID, BOB)
    bench.send(b"x", BOB)
    assert await again.receive() == (b"x", BOB)


@virtual_time
async def test_an_endpoint_stays_with_whom_it_speaks_first() -> None:
    bench = Bench()
    first, second = bench.lend(ATTEMPT_ID, BOB), bench.lend(OTHER_ID, CAROL)
    second.send_to(b"hello", BOB)
    bench.send(b"x", BOB)
    assert await first.receive() == (b"x", BOB)
    assert await silent(second)


@virtual_time
async def test_each_loan_counts_its_own_packets_and_its_end_leaves_the_socket_open() -> None:
    bench = Bench()
    one, two = bench.lend(ATTEMPT_ID, BOB), bench.lend(OTHER_ID, CAROL)
    one.send_to(b"x", BOB)
    for _ in range(3):
        two.send_to(b"x", CAROL)
    one.close()
    one.send_to(b"too late", BOB)
    assert (one.packets_sent, two.packets_sent, bench.socket.packets_sent) == (1, 3, 4)
    assert (one.local, one.through) == (HERE, None)
    assert not bench.socket.closed
    with pytest.raises(ConnectionLost):
        await one.receive()


@virtual_time
async def test_what_comes_for_a_loan_that_is_over_is_ignored() -> None:
    bench = Bench()
    bench.lend(ATTEMPT_ID, BOB).close()
    bench.send(frame(ATTEMPT_ID), BOB)
    bench.send(b"x", BOB)
    await asyncio.sleep(2 * DELAY_S)
    assert await silent(bench.lend(OTHER_ID, BOB))


@virtual_time
async def test_the_end_of_the_socket_is_that_of_every_loan() -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID, BOB)
    receiving = asyncio.create_task(loan.receive())
    await asyncio.sleep(0)
    bench.shared.close()
    with pytest.raises(ConnectionLost):
        await receiving
    await asyncio.sleep(0)
    assert bench.socket.closed
    assert bench.shared.lend(OTHER_ID, BOB) is None
