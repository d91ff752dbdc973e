"""The pipe over a stream: TLS 1.3 (RFC 8446) by Python's ssl, on whatever carries its bytes."""

import asyncio
import os
import ssl
from functools import lru_cache
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from warpfleet.core.combo import Side
from warpfleet.core.identity import Identity
from warpfleet.net.certificate import NODES_MAX, certificate_of, key_of
from warpfleet.net.handshake import FRAME_BYTES, Event, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ByteStream, ConnectionLost
from warpfleet.net.stream_pieces import read_piece
from warpfleet.net.stream_pipe import StreamPipe

_CHUNK_BYTES = 262_144  # encrypted and written at once: sixteen records
_RECORD_BYTES = 16_384  # RFC 8446 section 5.1
_AGREE_S = 3.0  # a responder that waits for us alone answers within a round trip


@lru_cache(1)
def client_context() -> ssl.SSLContext:
    """TLS 1.3 that takes any certificate: whose key it has is for the caller to check."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@lru_cache(NODES_MAX)
def server_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 with a node's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nothing is resumed
    certificate, key = certificate_of(identity)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:  # ssl reads files alone; no disk is to see the key
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def prepare(identity: Identity) -> None:
    """Have what the first tunnel needs, with what OpenSSL reads from files: later a connection would wait for them."""
    client_context()
    server_context(identity)


class Tunnel:
    """TLS between two streams of bytes, sans-I/O; the initiator's end is the client."""

    def __init__(self, side: Side, identity: Identity) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = side is Side.RESPONDER
        context = server_context(identity) if server else client_context()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._left_over = b""

    @property
    def peer_key(self) -> bytes | None:
        """The server's Ed25519 key, once the handshake is done, at the client's end."""
        certificate = self._tls.getpeercert(binary_form=True)
        return key_of(certificate) if certificate else None

    def first_flight(self) -> list[bytes]:
        """What the client sends first."""
        self.shake_hands()
        return [self.outgoing()]

    def shake_hands(self) -> bool:
        """Go on with the handshake; whether it is done. ProofFailed where the other end does not speak TLS 1.3."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise ProofFailed(f"no tunnel: {error.reason}") from error
        return True

    def feed(self, data: bytes) -> None:
        """Take encrypted bytes from the other end."""
        self._incoming.write(data)

    def take_back(self) -> bytes:
        """What it was fed, where nothing was made of it yet."""
        return self._incoming.read()

    def outgoing(self) -> bytes:
        """The encrypted bytes for the other end."""
        return self._outgoing.read()

    def write(self, data: memoryview | bytes) -> None:
        """Encrypt. ConnectionLost where what came before has broken the tunnel."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise _lost(error) from error

    def write_eof(self) -> None:
        """Say that nothing more follows. OpenSSL would then look for the other's end, and stumble over data: there is
        none to be seen."""
        self._left_over += self._tls.read(self._tls.pending()) if self._tls.pending() else b""
        waiting = self._incoming.read()
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise _lost(error) from error
        self._incoming.write(waiting)

    def read(self, max_bytes: int) -> tuple[bytes, bool]:
        """What can be decrypted, and whether that is all that ever comes. ConnectionLost where it was tampered with."""
        found, self._left_over = [self._left_over[:max_bytes]], self._left_over[max_bytes:]
        left = max_bytes - len(found[0])
        ended = False
        try:
            while left and not ended and (self._incoming.pending or self._tls.pending()):
                data = self._tls.read(min(left, _RECORD_BYTES))
                ended = not data
                found.append(data)
                left -= len(data)
        except ssl.SSLWantReadError:  # half a record
            pass
        except ssl.SSLZeroReturnError:  # how it tells the other's end once our own was said
            ended = True
        except ssl.SSLError as error:
            raise _lost(error) from error
        return b"".join(found), ended


def _lost(error: ssl.SSLError) -> ConnectionLost:
    return ConnectionLost(f"the tunnel is broken: {error.reason}")


class TlsPipe(StreamPipe):
    """A pipe over TCP, sealed."""

    def __init__(self, stream: ByteStream, tunnel: Tunnel, handshake: Handshake, *, agreed: bool) -> None:
        super().__init__(stream, handshake.peer.name)
        self._tunnel = tunnel
        self._handshake = handshake
        self._agreed = agreed
        self._agreeing: asyncio.Task[None] | None = None
        self._ended = False

    @classmethod
    async def open(cls, stream: ByteStream, tunnel: Tunnel, handshake: Handshake, *, agreed: bool = True) -> Self:
        """The pipe, once both ends have proved to be at the ends of the tunnel. Unless the peer has `agreed` already,
        it is to say so before its first byte in the tunnel, and within seconds.

        ProofFailed or ConnectionLost; the caller bounds the time, and closes the stream where it fails.
        """
        pipe = cls(stream, tunnel, handshake, agreed=agreed)
        while not tunnel.shake_hands():
            await pipe._flush()
            piece = await read_piece(stream)
            if is_frame(piece):
                pipe._hear(piece)
            else:
                tunnel.feed(piece)
        await pipe._seal()
        if not pipe._agreed:
            pipe._agreeing = asyncio.create_task(pipe._until_agreed())
            pipe._agreeing.add_done_callback(lambda agreeing: agreeing.cancelled() or agreeing.exception())
        return pipe

    @property
    def provisional(self) -> bool:
        """Whether AGREED has not come yet."""
        return not self._agreed

    async def agreed(self) -> None:
        """Return once AGREED has come. ConnectionLost where it does not within seconds."""
        if self._agreeing:
            await asyncio.shield(self._agreeing)

    async def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                self._tunnel.write(left[:_CHUNK_BYTES])
                left = left[_CHUNK_BYTES:]
                await self._flush()
        except ConnectionLost:
            await self.agreed()  # says so where it was that which did not come
            raise

    async def _write_eof(self) -> None:
        self._tunnel.write_eof()
        await self._flush()

    async def _read(self, max_bytes: int) -> bytes:
        await self.agreed()
        while not self._ended:
            data, self._ended = self._tunnel.read(max_bytes)
            if data:
                return data
            if not self._ended:
                self._tunnel.feed(await self._stream.read(_CHUNK_BYTES))
        return b""

    async def _until_agreed(self) -> None:
        try:
            async with asyncio.timeout(_AGREE_S):
                self._hear(await self._stream.read_exactly(FRAME_BYTES))
        except (TimeoutError, ProofFailed) as error:
            self._stream.close()
            raise ConnectionLost("the peer did not agree") from error

    def _hear(self, frame: bytes) -> None:
        if self._handshake.receive(frame).event is not Event.AGREED:
            raise ProofFailed("the peer did not agree")
        self._agreed = True

    async def _seal(self) -> None:
        """The client checks whose certificate it is before it sends anything; the server waits for its proof."""
        handshake = self._handshake
        if handshake.side is Side.INITIATOR:
            if self._tunnel.peer_key != handshake.peer.key:
                raise ProofFailed(f"the tunnel does not end at {self.peer}")
            self._tunnel.write(handshake.seal())
            await self._flush()
            return
        await self._flush()
        frame = b""
        while len(frame) < FRAME_BYTES:
            if not (data := await self._recv(FRAME_BYTES - len(frame))):
                raise ConnectionLost("closed by the peer")
            frame += data
        if handshake.receive(frame).event is not Event.SEALED:
            raise ProofFailed(f"the tunnel does not begin at {self.peer}")

    async def _flush(self) -> None:
        """Write what is encrypted. An answer that TLS owes the peer goes with the next bytes of ours."""
        if data := self._tunnel.outgoing():
            await self._stream.write(data)
