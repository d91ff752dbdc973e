"""One end of a TCP connection, as much of RFC 9293 as traversal needs. Pure: it is given each segment and the time.

There is no flow and no congestion control: what is written is sent at once.
"""

from collections import deque
from dataclasses import replace
from enum import Enum

from warpfleet.lab.sim.packet import Flags, Segment

_SEGMENT_BYTES = 1400
# RFC 6298 section 2: one second until a round trip is known, which doubles: a SYN goes out again after 1, 3 and 7 s.
_FIRST_RTO_S = 1.0
_MIN_RTO_S = 0.2  # Linux
_RETRIES_MAX = 6  # Linux, of a SYN: two minutes


class State(Enum):
    """The states of RFC 9293 section 3.3.2, as far as they differ here."""

    SYN_SENT = "syn_sent"
    SYN_RECEIVED = "syn_received"
    ESTABLISHED = "established"
    CLOSED = "closed"


class Failure(Enum):
    """Why a connection ended that nobody closed."""

    REFUSED = "refused"  # a RST answered the SYN
    RESET = "reset"
    NO_ANSWER = "no_answer"


class Connection:
    """Call a method, then send what is in `outgoing`, and call `tick` at `due_s` (None: never).

    `received` are the bytes in order that nobody has read yet, `ended` is whether the peer has no more to send.
    """

    def __init__(self, initial_seq: int) -> None:
        self.state = State.CLOSED
        self.failure: Failure | None = None
        self.outgoing: list[Segment] = []
        self.received = bytearray()
        self.ended = False
        self.due_s: float | None = None
        self._seq = initial_seq
        self._peer_seq: int | None = None  # the next that is expected of the peer; None until its SYN has come
        self._unacknowledged: deque[Segment] = deque()
        self._early: dict[int, Segment] = {}
        self._eof_sent = False
        self._closed = False
        self._rto_s = _FIRST_RTO_S
        self._retries = 0
        self._opened_s = 0.0

    def connect(self, now_s: float) -> None:
        """Open it actively."""
        self.state = State.SYN_SENT
        self._opened_s = now_s
        self._queue(Flags.SYN, now_s)

    def accept(self, syn: Segment, now_s: float) -> None:
        """Open it passively, for a SYN that a listener got."""
        self.state = State.SYN_RECEIVED
        self._opened_s = now_s
        self._peer_seq = syn.end
        self._queue(Flags.SYN, now_s)

    def write(self, data: bytes, now_s: float) -> None:
        """Send bytes."""
        for start in range(0, len(data), _SEGMENT_BYTES):
            self._queue(Flags.NONE, now_s, data[start : start + _SEGMENT_BYTES])

    def write_eof(self, now_s: float) -> None:
        """Send FIN after everything that was written. What the peer sends is still received."""
        if not self._eof_sent:
            self._eof_sent = True
            self._queue(Flags.FIN, now_s)

    def close(self, now_s: float) -> None:
        """End both ways. A connection that is not established yet is forgotten."""
        if self._closed or self.state is State.CLOSED:
            return
        self._closed = True
        if self.state is State.ESTABLISHED:
            self.write_eof(now_s)
        if not self._unacknowledged or self.state is not State.ESTABLISHED:
            self._end(None)

    def abort(self) -> None:
        """Send RST, and forget the connection."""
        if self.state is not State.CLOSED:
            self._transmit(Segment(Flags.RST, self._seq))
            self._end(None)

    def receive(self, segment: Segment, now_s: float) -> None:
        """Take a segment of the peer's (RFC 9293 section 3.10.7)."""
        if segment.flags & Flags.RST:
            self._on_reset(segment)
        elif self.state is State.SYN_SENT:
            self._on_answer(segment, now_s)
        elif segment.flags & Flags.SYN:
            self._on_further_syn(segment, now_s)
        else:
            self._acknowledged(segment.ack, now_s)
            if self.state is not State.CLOSED and segment.end > segment.seq:
                self._take(segment)

    def tick(self, now_s: float) -> None:
        """Send again what is due, or give up."""
        if self.due_s is None or now_s < self.due_s:
            return
        if self._retries == _RETRIES_MAX:
            self._end(Failure.NO_ANSWER)
            return
        self._retries += 1
        self._transmit(self._unacknowledged[0])
        self.due_s = now_s + self._rto_s * 2**self._retries

    def _on_reset(self, segment: Segment) -> None:
        if self.state is State.SYN_SENT:
            if segment.flags & Flags.ACK and segment.ack == self._seq:
                self._end(Failure.REFUSED)
        elif segment.seq == self._peer_seq:  # RFC 5961 section 3.2: any other is a guess
            self._end(Failure.REFUSED if self.state is State.SYN_RECEIVED else Failure.RESET)

    def _on_answer(self, segment: Segment, now_s: float) -> None:
        """In SYN_SENT: a SYN-ACK, or the SYN of a peer that opens at the same time (RFC 9293 section 3.5)."""
        answered = bool(segment.flags & Flags.ACK)
        if answered and segment.ack != self._seq:
            self.outgoing.append(Segment(Flags.RST, segment.ack))
        elif segment.flags & Flags.SYN:
            self._peer_seq = segment.end
            self.state = State.SYN_RECEIVED
            if answered:
                self._acknowledged(segment.ack, now_s)
                self._acknowledge()
            else:
                self._transmit(self._unacknowledged[0])  # our SYN once more, which now has an ACK as well

    def _on_further_syn(self, segment: Segment, now_s: float) -> None:
        """The SYN-ACK of a peer that opened at the same time, or a SYN once more."""
        if segment.flags & Flags.ACK:
            self._acknowledged(segment.ack, now_s)
        if self.state is State.SYN_RECEIVED:
            self._transmit(self._unacknowledged[0])
        elif self.state is State.ESTABLISHED:
            self._acknowledge()

    def _acknowledged(self, ack: int, now_s: float) -> None:
        if not self._unacknowledged or self._unacknowledged[0].end > ack:
            return
        if self.state is State.SYN_RECEIVED:
            self.state = State.ESTABLISHED
            if not self._retries:  # Karn's algorithm: what was sent twice shows no round trip
                self._rto_s = max(_MIN_RTO_S, 2 * (now_s - self._opened_s))
        while self._unacknowledged and self._unacknowledged[0].end <= ack:
            self._unacknowledged.popleft()
        self._retries = 0
        self.due_s = now_s + self._rto_s if self._unacknowledged else None
        if self._closed and not self._unacknowledged:
            self._end(None)

    def _take(self, segment: Segment) -> None:
        """Take bytes or a FIN, in order. Bytes that nobody will read any more are answered by a RST."""
        assert self._peer_seq is not None
        if self._closed and segment.data:
            self.outgoing.append(Segment(Flags.RST, self._seq))
            self._end(None)
            return
        self._early[segment.seq] = segment
        while following := self._early.pop(self._peer_seq, None):
            self.received += following.data
            self.ended = self.ended or bool(following.flags & Flags.FIN)
            self._peer_seq = following.end
        self._acknowledge()

    def _queue(self, flags: Flags, now_s: float, data: bytes = b"") -> None:
        segment = Segment(flags, self._seq, data=data)
        self._seq = segment.end
        self._unacknowledged.append(segment)
        self._transmit(segment)
        if self.due_s is None:
            self.due_s = now_s + self._rto_s

    def _transmit(self, segment: Segment) -> None:
        if self._peer_seq is not None:
            segment = replace(segment, flags=segment.flags | Flags.ACK, ack=self._peer_seq)
        self.outgoing.append(segment)

    def _acknowledge(self) -> None:
        self._transmit(Segment(Flags.NONE, self._seq))

    def _end(self, failure: Failure | None) -> None:
        self.state = State.CLOSED
        self.failure = failure
        self.due_s = None
