"""The pipe over a stream: TLS 1.3 (RFC 8446) by Python's ssl, on whatever carries its bytes."""

import asyncio
import contextlib
import os
import ssl
from functools import lru_cache
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from warpfleet.core.combo import Side, Transport
from warpfleet.core.identity import Identity
from warpfleet.net.certificate import NODES_MAX, certificate_of, key_of
from warpfleet.net.handshake import FRAME_BYTES, Event, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ByteStream, ConnectionLost, PipePath
from warpfleet.net.pipe import RECV_BYTES, BasePipe
from warpfleet.net.stream_pieces import read_piece

_CHUNK_BYTES = 262_144  # encrypted and written at once: sixteen records
_RECORD_BYTES = 16_384  # RFC 8446 section 5.1
_AGREE_S = 3.0  # a responder that waits for us alone answers within a round trip
_FLUSH_S = 2.0  # a peer that takes nothing for so long is not waited for
# A stream that is closed while the peer still sends is reset, and may take with it what the peer has not read yet: so
# its end is waited for, as long as it says something (a round trip of a slow path passes before it knows), up to 2 s.
_SILENCE_S, _FAREWELL_S = 0.25, 2.0


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


class TlsPipe(BasePipe):
    """A pipe over TCP."""

    def __init__(self, stream: ByteStream, tunnel: Tunnel, handshake: Handshake, *, agreed: bool) -> None:
        super().__init__(handshake.peer.name)
        self._stream = stream
        self._tunnel = tunnel
        self._handshake = handshake
        self._agreed = agreed
        self._answer = b""  # the frame that says so, as far as it has come
        self._writing, self._reading = asyncio.Lock(), asyncio.Lock()
        self._eof_sent = False
        self._ended = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, stream: ByteStream, tunnel: Tunnel, handshake: Handshake, *, agreed: bool = True) -> Self:
        """The pipe, once both ends have proved to be at the ends of the tunnel. Unless the peer has `agreed` already,
        it is to say so before its first byte in the tunnel, and within seconds of the first `recv`.

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
        return pipe

    @property
    def path(self) -> PipePath:
        """What carries the bytes."""
        return PipePath(Transport.TCP, self._stream.local, self._stream.remote)

    async def send(self, data: bytes) -> None:
        """Send any number of bytes; waits while the peer does not read. ConnectionLost once the pipe has ended."""
        left = memoryview(data)
        async with self._writing:
            while left:
                if self._eof_sent:
                    raise ConnectionLost("the end was sent")
                self._tunnel.write(left[:_CHUNK_BYTES])
                left = left[_CHUNK_BYTES:]
                await self._flush()

    async def send_eof(self) -> None:
        """Send no more; the peer reads what was sent before, and then the end. Idempotent."""
        async with self._writing:
            if not self._eof_sent:
                self._eof_sent = True
                self._tunnel.write_eof()
                await self._flush()

    async def recv(self, max_bytes: int = RECV_BYTES) -> bytes:
        """At least one byte; none at the end. ConnectionLost where the pipe broke before, or was closed here."""
        if self._closing:
            raise ConnectionLost("closed here")
        return await self._recv(max_bytes)

    async def close(self) -> None:
        """Close both ends, once what was sent is on its way; idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        with contextlib.suppress(ConnectionLost, TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self.send_eof()
            async with asyncio.timeout(_FAREWELL_S):
                while await asyncio.wait_for(self._recv(RECV_BYTES), _SILENCE_S):
                    continue
        self._stream.close()

    async def _recv(self, max_bytes: int) -> bytes:
        async with self._reading:  # who still receives goes on while the pipe is being closed
            if not self._agreed:
                await self._until_agreed()
            while not self._ended:
                data, self._ended = self._tunnel.read(max_bytes)
                if data:
                    return data
                if not self._ended:
                    self._tunnel.feed(await self._stream.read(_CHUNK_BYTES))
        return b""

    async def _until_agreed(self) -> None:
        """Whoever is cancelled here leaves what has come to the next. ConnectionLost where the peer does not agree."""
        try:
            async with asyncio.timeout(_AGREE_S):
                while len(self._answer) < FRAME_BYTES:
                    self._answer += await self._stream.read(FRAME_BYTES - len(self._answer))
            self._hear(self._answer)
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
