"""Drives the handshake over a stream. The tunnel begins with it, so that it costs no round trip of its own:

    initiator -> responder   HELLO, and the tunnel's first flight
    responder -> initiator   PROOF, and its own flight
    initiator -> responder   TAKE, and what is inside the tunnel: SEAL, and the first bytes
    responder -> initiator   AGREED, and what is inside the tunnel

What signals have brought already is left out: the first two lines where the initiator dials, the first where the
responder does.
"""

from warpfleet.core.combo import Side
from warpfleet.net.handshake import Event, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ByteStream
from warpfleet.net.proving import Claim, PeerClosed
from warpfleet.net.stream_pieces import read_piece
from warpfleet.net.tls import Tunnel

_FED_MAX_BYTES = 8192  # of the tunnel before both ends are proved: a first flight has 0.2 to 2 kB


async def prove_stream(
    stream: ByteStream,
    handshake: Handshake,
    claim: Claim,
    tunnel: Tunnel,
    *,
    first: bytes | None = None,
    opening: bytes = b"",
    begins: bool = True,
) -> str | None:
    """Prove both ends on a stream, and name it the winner, or hear that it is.

    `first` is the peer's frame where it was already read (an inbound stream), `opening` what this end says first where
    that is not its opener. What this end has to say in the tunnel `begins` with the proof, or is left to the caller.
    An initiator that has had PROOF by signal says TAKE at once. What follows on the stream is the tunnel's, except for
    AGREED, which the initiator does not wait for. Where a pipe moves here, or there is to be no tunnel, it does.
    Returns the plugin whose pipe moves.
    ProofFailed, PeerClosed, ConnectionLost, or what `claim` raises. The caller bounds the time.
    """
    proof = _StreamProof(stream, handshake, tunnel, begins=begins)
    if handshake.side is Side.INITIATOR:
        return await proof.lead(claim, first)
    return await proof.follow(first, opening)


class _StreamProof:
    def __init__(self, stream: ByteStream, handshake: Handshake, tunnel: Tunnel, *, begins: bool) -> None:
        self._stream = stream
        self._handshake = handshake
        self._tunnel = tunnel
        self._begins = begins
        self._fed_bytes = 0
        self._greeted = False
        self._moves: str | None = None

    async def lead(self, claim: Claim, first: bytes | None) -> str | None:
        if first:
            await self._digest(first)
        elif not self._handshake.proved:
            await self._greet()
        while not self._handshake.proved:
            await self._digest(await read_piece(self._stream))
        moves = await claim()
        self._reset_from_here_on(moves)
        await self._stream.write(self._handshake.move(moves) if moves else self._handshake.take())
        waits = moves or self._handshake.plain
        while waits and await self._digest(await read_piece(self._stream)) is not Event.AGREED:
            continue
        return moves

    async def follow(self, first: bytes | None, opening: bytes) -> str | None:
        if first is None:
            await self._stream.write(opening or self._handshake.opener())
        piece = first or await read_piece(self._stream)
        while await self._digest(piece) not in (Event.TAKEN, Event.MOVED):
            piece = await read_piece(self._stream)
        self._reset_from_here_on(self._moves)
        return self._moves

    def _reset_from_here_on(self, moves: str | None) -> None:
        """Without a tunnel FIN is the end of what we say: whatever else ends the stream is to reset it."""
        if self._handshake.plain and not moves:
            self._stream.reset_on_close()

    async def _greet(self) -> None:
        self._greeted = True
        flight = self._tunnel.first_flight() if self._begins else ()
        await self._stream.write(b"".join((self._handshake.opener(), *flight)))

    async def _digest(self, piece: bytes) -> Event:
        if is_frame(piece):
            return await self._digest_frame(piece)
        self._fed_bytes += len(piece)
        if self._fed_bytes > _FED_MAX_BYTES:
            raise ProofFailed("more than a first flight before the proof")
        self._tunnel.feed(piece)
        if not self._begins:
            return Event.NOTHING
        self._tunnel.shake_hands()
        if self._handshake.side is Side.RESPONDER and (flight := self._tunnel.outgoing()):
            await self._stream.write(flight)  # that of the initiator waits for TAKE
        return Event.NOTHING

    async def _digest_frame(self, frame: bytes) -> Event:
        received = self._handshake.receive(frame)
        if received.event is Event.CLOSED:
            raise PeerClosed("the peer closed this pipe")
        if received.event is Event.KNOCKED:  # our greeting may have crossed it
            if not self._greeted:
                await self._greet()
        elif received.reply:
            await self._stream.write(received.reply)
        if received.event is Event.MOVED and received.frame:
            self._moves = received.frame.plugin
        return received.event
