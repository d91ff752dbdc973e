"""The wire's arithmetic, on socket pairs: every frame arrives once, in order, and not before its time."""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from warpfleet.lab.wire import Wire

DELAY_S = 0.02


@dataclass
class Line:
    """One line with its outer ends: what is sent into one comes out of the other."""

    wire: Wire
    one: socket.socket
    two: socket.socket

    def receive(self, end: socket.socket) -> bytes:
        """Turn the wire until something arrives at an end."""
        while True:
            try:
                return end.recv(100)
            except BlockingIOError:
                self.wire.step()


@pytest.fixture
def line() -> Iterator[Line]:
    """A line of 20 ms."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for end in (end for pair in pairs for end in pair):
        end.setblocking(False)
    (one, inner_one), (two, inner_two) = pairs
    yield Line(Wire([(inner_one, inner_two, DELAY_S)]), one, two)
    for end in (end for pair in pairs for end in pair):
        end.close()


def test_a_frame_takes_its_time_in_both_directions(line: Line) -> None:
    for source, target in ((line.one, line.two), (line.two, line.one)):
        began_s = time.monotonic()
        source.send(b"frame")
        assert line.receive(target) == b"frame"
        assert time.monotonic() - began_s >= DELAY_S


def test_frames_keep_their_order_and_none_is_doubled(line: Line) -> None:
    sent = [bytes([index]) for index in range(10)]
    for frame in sent:
        line.one.send(frame)
    assert [line.receive(line.two) for _ in sent] == sent
    with pytest.raises(BlockingIOError):
        line.two.recv(100)


def test_a_later_frame_does_not_hold_up_an_earlier_one(line: Line) -> None:
    began_s = time.monotonic()
    line.one.send(b"first")
    line.wire.step()
    while time.monotonic() - began_s < DELAY_S / 2:
        line.two.send(b"keeps the wire busy")
        line.wire.step()
    assert line.receive(line.two) == b"first"
    assert DELAY_S <= time.monotonic() - began_s < 3 * DELAY_S
