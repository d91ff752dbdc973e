"""The proof of identity that turns a raw socket into a pipe. Sans-I/O: bytes in, bytes and events out.

Roles follow the connection, not who dialled. Each frame is signed with the sender's Ed25519 key over the frame and the
recipient's key; PROOF and what follows also cover both nonces, so that nothing of an earlier run can be replayed:

    responder -> initiator   KNOCK    "this address is mine": opens filters, or asks to be greeted on an inbound stream
    initiator -> responder   HELLO    the initiator's nonce
    responder -> initiator   PROOF    both nonces: the responder is proved
    initiator -> responder   TAKE     this pipe is the winner; both nonces: the initiator is proved
    responder -> initiator   AGREED   both ends agree which pipe it is
    initiator -> responder   MOVE     instead of TAKE: the relayed pipe of this connection moves to this path
    initiator -> responder   SEAL     first inside the tunnel that follows: the initiator is at its other end
    either    -> the other   CLOSE    this pipe is not needed (any more)
    either    -> the other   CHECK    a challenge, on a path of a pipe that is in use: does it still lead to you?
    either    -> the other   CHECKED  the same challenge, on the path that it came by

Every frame may be lost, repeated or reordered: each is answered anew. HELLO may come with a signal: then PROOF is the
first frame on the path. So may PROOF, ahead of a stream that the initiator dials: then TAKE is.
"""

import struct
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, IntFlag
from typing import Self

from warpfleet.core.combo import Combo, RouteType, Side
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity

# RFC 7983 and RFC 9443 leave first bytes of 4 to 15 free, so that a frame is never taken for STUN, TURN or QUIC.
_MAGIC = b"\x05WF3"
# magic, type, route type, wishes, plugin name, connection id, attempt id, start of the connection, sender's key, and
# both nonces
_BODY = struct.Struct("!4sBBB16s16s16sQ32s16s16s")
_ATTEMPT = slice(39, 55)  # where the attempt id is
_ROUTES = (RouteType.NIC, RouteType.EXT, RouteType.LOOPBACK)
_SIGNATURE_BYTES = 64
FRAME_BYTES = _BODY.size + _SIGNATURE_BYTES
NONCE_BYTES = 16  # 128 bits: no two runs share a nonce
PLUGIN_NAME_MAX_BYTES = 16
_NO_NONCE = bytes(NONCE_BYTES)
_SIGNATURE_CONTEXT = b"warpfleet pipe 3"  # keeps these signatures apart from those over signals and records


def is_frame(data: bytes) -> bool:
    """Whether a datagram is a frame of this protocol, or pretends to be one; any other may be the tunnel's."""
    return data.startswith(_MAGIC)


def attempt_in(data: bytes) -> str:
    """The id of the attempt that a frame is said to be of; garbage where it is none."""
    return data[_ATTEMPT].hex()


class ProofFailed(WarpfleetError):
    """Whoever answers is not the peer, or does not speak this protocol."""


class FrameType(IntEnum):
    """What a frame says."""

    KNOCK = 1
    HELLO = 2
    PROOF = 3
    TAKE = 4
    AGREED = 5
    CLOSE = 6
    SEAL = 7
    MOVE = 8
    CHECK = 9
    CHECKED = 10


class Wishes(IntFlag):
    """What the sender of a frame wants of the pipe. It is in every frame, and so signed; what both agree on is taken
    from frames over both nonces alone."""

    NONE = 0
    PLAIN = 1  # no tunnel, where the other end wants none either and the path is a TCP stream
    MEASURED = 2  # the initiator times the pipe and closes it: it is to be echoed


class Event(Enum):
    """What a received frame means for the pipe."""

    NOTHING = "nothing"  # answered, repeated, or noise
    KNOCKED = "knocked"  # initiator: the responder can be heard
    GREETED = "greeted"  # responder: the initiator has been heard, and asks again where our answer is lost
    PROVED = "proved"  # initiator: the responder has proved itself; `take` may be sent
    TAKEN = "taken"  # responder: the initiator has proved itself and named this pipe
    MOVED = "moved"  # responder: as TAKEN, for a pipe that is in use; the frame says whose
    AGREED = "agreed"  # initiator: the responder agrees
    SEALED = "sealed"  # responder: the initiator speaks; means something inside the tunnel alone
    CHECKED = "checked"  # our challenge has come back; the frame has it
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. Ids are 32 hexadecimal digits; `sender` is a 32-byte Ed25519 key.

    `started_at_us` is when the connection began by its initiator's clock, in microseconds since 1970 (UTC). `plugin` is
    the attempt's, in MOVE that of the pipe which moves. In CHECK and CHECKED the initiator's nonce is the challenge.
    """

    type: FrameType
    plugin: str
    route: RouteType
    connection_id: str
    attempt_id: str
    started_at_us: int
    sender: bytes
    initiator_nonce: bytes = _NO_NONCE
    responder_nonce: bytes = _NO_NONCE
    signature: bytes = bytes(_SIGNATURE_BYTES)
    wishes: Wishes = Wishes.NONE

    def _body(self) -> bytes:
        ids = bytes.fromhex(self.connection_id), bytes.fromhex(self.attempt_id)
        nonces = self.initiator_nonce, self.responder_nonce
        what = self.type, _ROUTES.index(self.route), self.wishes, self.plugin.encode()
        return _BODY.pack(_MAGIC, *what, *ids, self.started_at_us, self.sender, *nonces)

    def sign(self, identity: Identity, recipient: PublicIdentity) -> bytes:
        """The frame's `FRAME_BYTES` bytes, signed for one recipient."""
        body = self._body()
        return body + identity.sign(_SIGNATURE_CONTEXT + body + recipient.key)

    def verify(self, sender: PublicIdentity, recipient: PublicIdentity) -> bool:
        """Whether `sender` signed this frame for `recipient`."""
        return self.sender == sender.key and sender.verify(
            self.signature, _SIGNATURE_CONTEXT + self._body() + recipient.key
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a frame; ProofFailed for anything else. The signature is not looked at."""
        if len(data) != FRAME_BYTES:
            raise ProofFailed("not a frame of the pipe protocol: wrong length")
        magic, kind, route, wishes, plugin, connection, attempt, *rest = _BODY.unpack_from(data)
        try:
            if magic != _MAGIC:
                raise ValueError("wrong magic")
            name = plugin.rstrip(b"\0").decode("ascii")
            frame_type = FrameType(kind)
            route_type = _ROUTES[route]
        except (ValueError, IndexError) as error:
            raise ProofFailed(f"not a frame of the pipe protocol: {error}") from error
        ids = connection.hex(), attempt.hex()
        started_at_us, sender, nonce_i, nonce_r = rest
        signature = data[_BODY.size :]
        wanted = Wishes(wishes)
        return cls(frame_type, name, route_type, *ids, started_at_us, sender, nonce_i, nonce_r, signature, wanted)


@dataclass(frozen=True, slots=True)
class Received:
    """What to do about a received frame: an answer for its source, and what it means, with the frame where that says
    more."""

    event: Event = Event.NOTHING
    reply: bytes | None = None
    frame: Frame | None = None


class Handshake:
    """One attempt's proof of identity, shared by all the paths that the attempt tries.

    `nonce` is 16 bytes of a cryptographic source, fresh for each attempt; `peer_nonce` is the peer's, where another
    process has proved both ends and this one goes on.
    """

    def __init__(
        self,
        *,
        side: Side,
        identity: Identity,
        peer: PublicIdentity,
        connection_id: str,
        attempt_id: str,
        combo: Combo,
        started_at_us: int,
        nonce: bytes,
        wishes: Wishes = Wishes.NONE,
        peer_nonce: bytes | None = None,
    ) -> None:
        self.side = side
        self.peer = peer
        self.peer_wishes = Wishes.NONE  # once it is proved
        self.peer_nonce = peer_nonce
        self._identity = identity
        self._nonce = nonce
        self._base = Frame(
            FrameType.CLOSE,
            combo.plugin,
            combo.route,
            connection_id,
            attempt_id,
            started_at_us,
            identity.public.key,
            wishes=wishes,
        )
        self._verified: dict[bytes, Frame] = {}  # so that repeats cost nothing
        self._said: dict[tuple[FrameType, str | None, bytes | None], bytes] = {}  # as above

    @property
    def proved(self) -> bool:
        """Whether the peer's nonce is known: to the initiator, that its responder is proved."""
        return self.peer_nonce is not None

    @property
    def plain(self) -> bool:
        """Whether both ends want no tunnel: as soon as the peer is proved, and not before."""
        return bool(self._base.wishes & self.peer_wishes & Wishes.PLAIN)

    def opener(self) -> bytes:
        """What this side sends unprompted: HELLO from the initiator, KNOCK from the responder."""
        return self._frame(FrameType.HELLO if self.side is Side.INITIATOR else FrameType.KNOCK)

    def take(self) -> bytes:
        """The initiator names this pipe the winner. Only after `Event.PROVED`."""
        return self._frame(FrameType.TAKE)

    def move(self, plugin: str) -> bytes:
        """As `take`, where the pipe of this connection that this plugin has won is to move here."""
        return self._frame(FrameType.MOVE, plugin=plugin)

    def check(self, challenge: bytes) -> bytes:
        """Ask whether a path leads to the peer. The challenge has `NONCE_BYTES` bytes that nobody can guess."""
        return self._signed(replace(self._base, type=FrameType.CHECK, initiator_nonce=challenge))

    def seal(self) -> bytes:
        """The initiator says that it is at the other end of the tunnel: inside it, once its responder is proved."""
        return self._frame(FrameType.SEAL)

    def close(self) -> bytes:
        """Tell the other end that the pipe is over."""
        return self._frame(FrameType.CLOSE)

    def receive(self, data: bytes) -> Received:
        """Digest a received frame. ProofFailed where it is not one of this attempt, signed by the peer."""
        frame = self._verify(data)
        handlers = _INITIATOR_HANDLERS if self.side is Side.INITIATOR else _RESPONDER_HANDLERS
        handler = handlers.get(frame.type)
        return handler(self, frame) if handler else Received()

    def _frame(self, kind: FrameType, plugin: str | None = None) -> bytes:
        known = kind, plugin, self.peer_nonce
        if known not in self._said:
            self._said[known] = self._signed(self._made(kind, plugin))
        return self._said[known]

    def _made(self, kind: FrameType, plugin: str | None) -> Frame:
        ours, theirs = self._nonce, self.peer_nonce or _NO_NONCE
        nonces = (ours, theirs) if self.side is Side.INITIATOR else (theirs, ours)
        if kind in (FrameType.KNOCK, FrameType.HELLO):
            nonces = (ours, _NO_NONCE) if self.side is Side.INITIATOR else (_NO_NONCE, ours)
        of = plugin or self._base.plugin
        return replace(self._base, type=kind, plugin=of, initiator_nonce=nonces[0], responder_nonce=nonces[1])

    def _signed(self, frame: Frame) -> bytes:
        return frame.sign(self._identity, self.peer)

    def _verify(self, data: bytes) -> Frame:
        known = self._verified.get(data)
        if known:
            return known
        frame = Frame.parse(data)
        if (frame.connection_id, frame.attempt_id) != (self._base.connection_id, self._base.attempt_id):
            raise ProofFailed("a frame of another attempt")
        if not frame.verify(self.peer, self._identity.public):
            raise ProofFailed(f"not signed by {self.peer.name}")
        if len(self._verified) < len(FrameType):
            self._verified[data] = frame
        return frame

    def _on_knock(self, _frame: Frame) -> Received:
        return Received(Event.KNOCKED, self.opener())

    def _on_proof(self, frame: Frame) -> Received:
        if frame.initiator_nonce != self._nonce:
            raise ProofFailed("a proof of an earlier attempt")
        self.peer_nonce, self.peer_wishes = frame.responder_nonce, frame.wishes
        return Received(Event.PROVED)

    def _on_agreed(self, frame: Frame) -> Received:
        self._check_nonces(frame.responder_nonce, frame.initiator_nonce)
        return Received(Event.AGREED)

    def _on_hello(self, frame: Frame) -> Received:
        if self.peer_nonce not in (None, frame.initiator_nonce):
            raise ProofFailed("a greeting of an earlier attempt")
        self.peer_nonce = frame.initiator_nonce
        return Received(Event.GREETED, self._frame(FrameType.PROOF))

    def _on_take(self, frame: Frame) -> Received:
        self._check_nonces(frame.initiator_nonce, frame.responder_nonce)
        self.peer_wishes = frame.wishes
        return Received(Event.TAKEN, reply=self._frame(FrameType.AGREED))

    def _on_move(self, frame: Frame) -> Received:
        self._check_nonces(frame.initiator_nonce, frame.responder_nonce)
        return Received(Event.MOVED, self._frame(FrameType.AGREED), frame)

    def _on_check(self, frame: Frame) -> Received:
        answer = replace(self._base, type=FrameType.CHECKED, initiator_nonce=frame.initiator_nonce)
        return Received(reply=self._signed(answer))

    def _on_checked(self, frame: Frame) -> Received:
        return Received(Event.CHECKED, frame=frame)

    def _on_seal(self, frame: Frame) -> Received:
        self._check_nonces(frame.initiator_nonce, frame.responder_nonce)
        return Received(Event.SEALED)

    def _on_close(self, _frame: Frame) -> Received:
        return Received(Event.CLOSED)

    def _check_nonces(self, theirs: bytes, ours: bytes) -> None:
        if (theirs, ours) != (self.peer_nonce, self._nonce):
            raise ProofFailed("a frame of an earlier run")


_INITIATOR_HANDLERS = {
    FrameType.KNOCK: Handshake._on_knock,
    FrameType.PROOF: Handshake._on_proof,
    FrameType.AGREED: Handshake._on_agreed,
    FrameType.CLOSE: Handshake._on_close,
    FrameType.CHECK: Handshake._on_check,
    FrameType.CHECKED: Handshake._on_checked,
}
_RESPONDER_HANDLERS = {
    FrameType.HELLO: Handshake._on_hello,
    FrameType.TAKE: Handshake._on_take,
    FrameType.MOVE: Handshake._on_move,
    FrameType.SEAL: Handshake._on_seal,
    FrameType.CLOSE: Handshake._on_close,
    FrameType.CHECK: Handshake._on_check,
    FrameType.CHECKED: Handshake._on_checked,
}
