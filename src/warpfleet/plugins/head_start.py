"""The handshake of a stream, sent ahead of it by signal: once the stream is there, little is left to wait for."""

from typing import Annotated

from pydantic import Field

from warpfleet.net.handshake import FRAME_BYTES, Frame, FrameType, ProofFailed, Received
from warpfleet.net.tls import Tunnel
from warpfleet.plugins.attempt_context import AttemptContext, BegunStream

_FLIGHT_MAX_BYTES = 8192  # a client's has 0.2 to 2 kB, by the kinds of keys that it offers; a server's a little more

Opening = Annotated[bytes, Field(min_length=FRAME_BYTES, max_length=FRAME_BYTES + _FLIGHT_MAX_BYTES)]
"""What a side would say first on a stream: HELLO or PROOF, and the first flight of its end of the tunnel."""


class HeadStart:
    """What signals have begun of one attempt's proof and tunnel. One stream goes on with it and no other, since what is
    in a tunnel must not be told twice. The peer sees from the first frame on a stream that it is that one."""

    def __init__(self, context: AttemptContext) -> None:
        self._handshake = context.handshake()
        self._tunnel = Tunnel(context.side, context.node.identity)
        self._begins = context.begins_tunnel
        self._opening = b""
        self._spent = False

    def greet(self) -> bytes:
        """The initiator's opening."""
        flight = self._tunnel.first_flight() if self._begins else ()
        return b"".join((self._handshake.opener(), *flight))

    def answer(self, greeting: bytes) -> bytes:
        """The responder's opening, also for the stream where it is the one to dial. ProofFailed where the greeting is
        not the peer's."""
        proof = self._take(greeting).reply or b""
        self._opening = proof + self._tunnel.outgoing()
        return self._opening

    def hear(self, answer: bytes) -> None:
        """The initiator takes the responder's opening. ProofFailed where it is not the peer's."""
        self._take(answer)

    def begun(self) -> BegunStream | None:
        """For the stream that goes on with it; None for any other."""
        if self._spent:
            return None
        self._spent = True
        return BegunStream(self._handshake, self._tunnel, self._opening)

    def _take(self, opening: bytes) -> Received:
        received = self._handshake.receive(opening[:FRAME_BYTES])
        if not self._handshake.proved:
            raise ProofFailed("neither a greeting nor a proof")
        self._tunnel.feed(opening[FRAME_BYTES:])
        if self._begins:
            self._tunnel.shake_hands()
        return received


def goes_on(first_frame: bytes) -> bool:
    """Whether a stream that a peer has dialled goes on with what signals have begun, by its first frame."""
    return Frame.parse(first_frame).type not in (FrameType.HELLO, FrameType.KNOCK)
