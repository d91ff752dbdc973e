"""The wire's arithmetic, on socket pairs: every frame arrives once, in order, and not before its time."""

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from warpfleet.configs.line import LineQuality
from warpfleet.lab.wire import Wire

DELAY_MS = 20.0
DELAY_S = DELAY_MS / 1000


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


@contextmanager
def line_of(quality: LineQuality, chances: Iterable[float] = ()) -> Iterator[Line]:
    """A line of this quality, to which chance brings these numbers."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for end in (end for pair in pairs for end in pair):
        end.setblocking(False)
    (one, inner_one), (two, inner_two) = pairs
    yield Line(Wire([(inner_one, inner_two, quality)], iter(chances).__next__), one, two)
    for end in (end for pair in pairs for end in pair):
        end.close()


@pytest.fixture
def line() -> Iterator[Line]:
    """A line of 20 ms."""
    with line_of(LineQuality(DELAY_MS)) as made:
        yield made


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
    began_s, arrived = time.monotonic(), b""
    line.one.send(b"first")
    while not arrived and time.monotonic() - began_s < 5:
        line.two.send(b"keeps the wire busy")
        line.wire.step()
        with suppress(BlockingIOError):
            arrived = line.two.recv(100)
    assert arrived == b"first"
    assert time.monotonic() - began_s >= DELAY_S


def test_a_line_loses_what_chance_has_it_lose() -> None:
    with line_of(LineQuality(loss=0.25), [0.9, 0.2, 0.25]) as line:
        for frame in (b"first", b"lost", b"third"):
            line.one.send(frame)
        assert [line.receive(line.two) for _ in range(2)] == [b"first", b"third"]


def test_frames_of_a_jittery_line_overtake_one_another() -> None:
    with line_of(LineQuality(DELAY_MS, jitter_ms=DELAY_MS), [0.9, 0.1]) as line:
        began_s = time.monotonic()
        line.one.send(b"late")
        line.one.send(b"early")
        assert [line.receive(line.two) for _ in range(2)] == [b"early", b"late"]
        assert time.monotonic() - began_s >= 1.9 * DELAY_S
