"""One UDP socket that is lent out: who hears what, and that a loan is as good as a socket of one's own."""

import asyncio
from collections.abc import Callable

import pytest

from fake_network import DELAY_S, FakeUdp, Internet
from fake_node import ATTEMPT_ID, handshakes
from virtual_time import virtual_time
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.quic_engine import connection_id
from warpfleet.net.shared import Loan, SharedSocket

HERE, BOB, CAROL, STRANGER = (Endpoint(f"203.0.113.{number}", 1000) for number in (1, 2, 3, 4))
OTHER_ID, MOVED_ID = "b0" * 16, "d0" * 16


class Bench:
    """A shared socket, and others that send to it."""

    def __init__(self) -> None:
        self.internet = Internet()
        self.socket = FakeUdp(self.internet, HERE)
        self.shared = SharedSocket(self.socket)

    def lend(self, attempt_id: str) -> Loan:
        loan = self.shared.lend(attempt_id)
        assert loan
        return loan

    def send(self, data: bytes, source: Endpoint) -> None:
        FakeUdp(self.internet, source).send_to(data, HERE)


def frame(attempt_id: str) -> bytes:
    return handshakes(attempt_id=attempt_id)[1].opener()


def long(attempt_id: str) -> bytes:
    """The beginning of a datagram with a long header (RFC 8999 section 5.1)."""
    return b"\xc0" + bytes(4) + b"\x08" + connection_id(attempt_id) + b"..."


def short(attempt_id: str) -> bytes:
    """The beginning of one with a short header (section 5.2)."""
    return b"\x40" + connection_id(attempt_id) + b"..."


async def silent(loan: Loan) -> bool:
    try:
        async with asyncio.timeout(1):
            await loan.receive()
    except TimeoutError:
        return True
    return False


@virtual_time
@pytest.mark.parametrize("made", [frame, long, short])
async def test_what_comes_goes_to_the_attempt_that_it_names_wherever_it_comes_from(
    made: Callable[[str], bytes],
) -> None:
    bench = Bench()
    one, two = bench.lend(ATTEMPT_ID), bench.lend(OTHER_ID)
    for attempt_id, source in ((OTHER_ID, BOB), (ATTEMPT_ID, BOB)):
        bench.send(made(attempt_id), source)
    assert await one.receive() == (made(ATTEMPT_ID), BOB)
    assert await two.receive() == (made(OTHER_ID), BOB)


@virtual_time
@pytest.mark.parametrize("made", [frame, long, short])
async def test_a_pipe_that_moves_here_keeps_the_name_of_its_own_attempt(made: Callable[[str], bytes]) -> None:
    bench = Bench()
    bench.lend(ATTEMPT_ID)
    here = bench.lend(OTHER_ID)
    here.send_to(made(MOVED_ID), BOB)
    bench.send(made(MOVED_ID), BOB)
    assert await here.receive() == (made(MOVED_ID), BOB)


@virtual_time
async def test_no_loan_takes_what_is_another_ones() -> None:
    bench = Bench()
    one, two = bench.lend(ATTEMPT_ID), bench.lend(OTHER_ID)
    two.send_to(frame(ATTEMPT_ID), BOB)
    bench.send(short(ATTEMPT_ID), BOB)
    assert await one.receive() == (short(ATTEMPT_ID), BOB)
    assert await silent(two)


@virtual_time
async def test_what_overtakes_the_signal_of_its_attempt_waits_for_it_in_order() -> None:
    bench = Bench()
    early = [long(ATTEMPT_ID), frame(OTHER_ID), frame(ATTEMPT_ID)]
    for data in early:
        bench.send(data, STRANGER)
    await asyncio.sleep(2 * DELAY_S)
    loan = bench.lend(ATTEMPT_ID)
    assert [await loan.receive() for _ in range(2)] == [(early[0], STRANGER), (early[2], STRANGER)]
    assert await silent(loan)
    assert bench.socket.packets_sent == 0


@virtual_time
async def test_strangers_fill_no_more_than_so_much_memory() -> None:
    bench = Bench()
    bench.send(frame(ATTEMPT_ID), BOB)
    for number in range(1000):
        bench.send(short(f"{number:032x}"[::-1]), STRANGER)
    await asyncio.sleep(2 * DELAY_S)
    assert await silent(bench.lend(ATTEMPT_ID)), "what came first has gone"


@virtual_time
@pytest.mark.parametrize("data", [b"", b"\x40 in no tunnel", frame("f0" * 16), b"\x05WF2", bytes(FRAME_BYTES)])
async def test_a_stranger_is_neither_heard_nor_answered(data: bytes) -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID)
    bench.send(data, STRANGER)
    assert await silent(loan)
    assert bench.socket.packets_sent == 0


@virtual_time
async def test_an_attempt_has_one_loan_at_a_time() -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID)
    assert bench.shared.lend(ATTEMPT_ID) is None
    loan.close()
    again = bench.lend(ATTEMPT_ID)
    bench.send(short(ATTEMPT_ID), BOB)
    assert await again.receive() == (short(ATTEMPT_ID), BOB)


@virtual_time
async def test_each_loan_counts_its_own_packets_and_its_end_leaves_the_socket_open() -> None:
    bench = Bench()
    one, two = bench.lend(ATTEMPT_ID), bench.lend(OTHER_ID)
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
    bench.lend(ATTEMPT_ID).close()
    bench.send(frame(ATTEMPT_ID), BOB)
    bench.send(b"x", BOB)
    await asyncio.sleep(2 * DELAY_S)
    assert await silent(bench.lend(OTHER_ID))


@virtual_time
async def test_the_end_of_the_socket_is_that_of_every_loan() -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID)
    receiving = asyncio.create_task(loan.receive())
    await asyncio.sleep(0)
    bench.shared.close()
    with pytest.raises(ConnectionLost):
        await receiving
    await asyncio.sleep(0)
    assert bench.socket.closed
    assert bench.shared.lend(OTHER_ID) is None


@virtual_time
async def test_a_peer_that_gives_itself_ever_new_names_fills_no_table() -> None:
    bench = Bench()
    loan = bench.lend(ATTEMPT_ID)
    for number in range(1000):
        loan.send_to(b"\x40" + number.to_bytes(8) + b"...", BOB)
    assert len(bench.shared._loans) <= 4
    bench.send(short(ATTEMPT_ID), BOB)
    assert (await loan.receive())[0] == short(ATTEMPT_ID)
    loan.close()
    assert bench.shared._loans == {}
    bench.shared.close()


@virtual_time
async def test_what_no_path_carries_in_one_piece_is_not_kept() -> None:
    bench = Bench()
    for size in (1500, 60_000):
        bench.send(long(ATTEMPT_ID).ljust(size, b"."), STRANGER)
    await asyncio.sleep(2 * DELAY_S)
    loan = bench.lend(ATTEMPT_ID)
    assert len((await loan.receive())[0]) == 1500
    assert await silent(loan)
    bench.shared.close()
