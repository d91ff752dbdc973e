"""One end of a QUIC connection with one stream (RFC 9000), by aioquic. Sans-I/O: it is given datagrams and the time."""

import ssl
from collections.abc import Iterable
from typing import Any

from aioquic._buffer import Buffer
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import (
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, QuicProtocolVersion, pull_quic_header
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch, Group

from warpfleet.core.combo import Side
from warpfleet.core.identity import Identity
from warpfleet.net.certificate import certificate_of, key_in

WINDOW_BYTES = 1_048_576  # that may wait for a reader, and for an acknowledgement: 80 Mbit/s at a round trip of 100 ms
_GRANT_BYTES = WINDOW_BYTES // 8  # of a window that has moved on are told at once: a slow reader shows that it reads
IDLE_S = 30.0  # a peer that is silent for so long is gone (RFC 7675 section 5.1)
_UNLIMITED = 2**62 - 1  # the largest integer of RFC 9000 section 16
_STREAM = 0  # the first one that a client opens
_CID_BYTES = 8
_CIDS = 2  # the fewest that RFC 9000 section 18.2 allows: a pipe that moves takes its own along
_LONG_HEADER, _FIXED_BIT = 0x80, 0x40  # RFC 9000 section 17
_LONG_CID_AT = 6  # behind the first byte, the version and the length
_PEER = ("peer", 0)  # where the peer is does not concern QUIC: paths are chosen elsewhere


def connection_id(attempt_id: str) -> bytes:
    """What both ends call the tunnel of an attempt. An attempt id is 32 hexadecimal digits that nobody can foresee, as
    RFC 9000 section 7.2 wants it."""
    return bytes.fromhex(attempt_id)[:_CID_BYTES]


def addressee(data: bytes) -> bytes:
    """The destination connection id of a datagram (RFC 8999 section 5); empty where it is none of QUIC's."""
    if not data or not data[0] & _FIXED_BIT:
        return b""
    begins = _LONG_CID_AT if data[0] & _LONG_HEADER else 1
    return data[begins : begins + _CID_BYTES]


class _Connection(QuicConnection):
    """aioquic's connection with a window that moves on as its stream is read, not as bytes come, with no other stream,
    with one connection id for both directions, and with acknowledgements that go along with what is sent."""

    granted_bytes = WINDOW_BYTES

    def __init__(self, configuration: QuicConfiguration, cid: bytes) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=None if configuration.is_client else cid,
        )
        self._host_cids[0].cid = self.host_cid = self._local_initial_source_connection_id = cid
        self._local_active_connection_id_limit = _CIDS
        if configuration.is_client:
            self._peer_cid.cid = self._original_destination_connection_id = cid

    def _initialize(self, peer_cid: bytes) -> None:
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = 0 if self._is_client else 1
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = 0
        super()._initialize(peer_cid)
        self.tls._supported_groups = [Group.X25519]  # else a client makes a key of every kind: a fifth of the CPU

    def _write_application(self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float) -> None:
        """RFC 9000 section 13.2.1; aioquic sends them a millisecond later, in datagrams of their own."""
        space = self._spaces[Epoch.ONE_RTT]
        sends = self._handshake_done_pending or any(not s.sender.buffer_is_empty for s in self._streams.values())
        if sends and space.ack_at is not None:
            space.ack_at = min(space.ack_at, now)
        super()._write_application(builder, network_path, now)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        stream.max_stream_data_local = self.granted_bytes
        if stream.max_stream_data_local_sent == self.granted_bytes:
            return
        frame = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        frame.push_uint_var(_STREAM)
        frame.push_uint_var(self.granted_bytes)
        stream.max_stream_data_local_sent = self.granted_bytes


class QuicEngine:
    """The initiator's end is the client; both are given the attempt that the tunnel is of. After each call, send what
    `outgoing` has, and call `tick` at `due_s` (None: never). Times are of one monotonic clock, in seconds.

    `received` are the bytes in order that nobody has read yet, `ended` is whether the peer has no more to send, and
    `lost` says why the connection has ended, None while it has not.
    """

    def __init__(self, side: Side, identity: Identity, attempt_id: str) -> None:
        self._cid = connection_id(attempt_id)
        self.received = bytearray()
        self.ended = False
        self.established = False
        self.lost: str | None = None
        self._read_bytes = 0
        self._stream: QuicStream | None = None
        self._connection: _Connection | None = None
        self._by_signal = False
        self._settings: dict[str, Any] = {
            "is_client": side is Side.INITIATOR,
            "connection_id_length": _CID_BYTES,
            "idle_timeout": IDLE_S,
            "max_data": _UNLIMITED,  # there is but one stream, which has a limit
            "max_stream_data": WINDOW_BYTES,
            "supported_versions": [QuicProtocolVersion.VERSION_1],  # both ends are of one kind
            "verify_mode": ssl.CERT_NONE,  # `peer_key` is what is to be checked: it vouches for itself
        }
        if side is Side.RESPONDER:
            certificate, key = certificate_of(identity)
            self._settings |= {"certificate": certificate, "private_key": key}

    @property
    def peer_key(self) -> bytes | None:
        """The server's Ed25519 key, once the connection is established, at the client's end."""
        certificate = self._connection.tls._peer_certificate if self._connection else None
        return key_in(certificate) if certificate else None

    @property
    def confirmed(self) -> bool:
        """Whether the other end is known to have completed the handshake (RFC 9001 section 4.1.2), at the client's."""
        return self._connection is not None and (self._connection._handshake_confirmed or bool(self.received))

    @property
    def due_s(self) -> float | None:
        """When to call `tick`."""
        return self._connection.get_timer() if self._connection and self.lost is None else None

    @property
    def room_bytes(self) -> int:
        """How much may be written now."""
        return max(0, WINDOW_BYTES - len(self._stream.sender._buffer)) if self._stream else WINDOW_BYTES

    @property
    def granted_bytes(self) -> int:
        """How much the peer may send in all."""
        return self._connection.granted_bytes if self._connection else WINDOW_BYTES

    @property
    def flushed(self) -> bool:
        """Whether the peer has acknowledged everything, its end included."""
        return self._stream is not None and self._stream.sender.is_finished

    def connect(self, now_s: float, *, by_signal: bool = False) -> list[bytes]:
        """Begin, at the client's end; its first flight. One that goes by a signal shows no round trip of the path."""
        self._by_signal = by_signal
        self._connection = _Connection(QuicConfiguration(**self._settings), self._cid)
        self._connection.connect(_PEER, now_s)
        return self.outgoing(now_s)

    def begin(self, early: Iterable[bytes], now_s: float) -> list[bytes]:
        """Begin, at the client's end, or go on with what has come where that is done; what to send. Once established,
        the last of it waits for what is written first: apart from it, it might be overtaken."""
        if self._connection is None:
            return self.connect(now_s)
        for data in early:
            self.receive(data, now_s)
        if self._by_signal:
            self._connection._loss._rtt_initialized = False
        return [] if self.established else self.outgoing(now_s)

    def receive(self, data: bytes, now_s: float) -> None:
        """Take a datagram from where the peer is; what is none of its is ignored."""
        if self.lost is not None:
            return
        if self._connection:
            self._connection.receive_datagram(data, _PEER, now_s)
        else:
            self._accept(data, now_s)
        self._digest()

    def tick(self, now_s: float) -> None:
        """Do what is due."""
        if self._connection and self.lost is None:
            self._connection.handle_timer(now_s)
            self._digest()

    def outgoing(self, now_s: float) -> list[bytes]:
        """The datagrams to send now."""
        if self._connection is None:
            return []
        return [data for data, _ in self._connection.datagrams_to_send(now_s)]

    def write(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes, no more than there is room for; at the `end`, the last ones. Only once established."""
        assert self._connection is not None
        self._connection.send_stream_data(_STREAM, data, end_stream=end)
        self._stream = self._stream or self._connection._streams[_STREAM]

    def read(self, max_bytes: int) -> bytes:
        """Take bytes that were received, which lets the peer send as many more."""
        data = bytes(self.received[:max_bytes])
        del self.received[:max_bytes]
        self._read_bytes += len(data)
        limit_bytes = self._read_bytes + WINDOW_BYTES
        if self._connection and limit_bytes - self.granted_bytes >= _GRANT_BYTES:
            self._connection.granted_bytes = limit_bytes
        return data

    def ping(self) -> None:
        """Have the peer answer."""
        if self._connection:
            self._connection.send_ping(0)

    def moved(self, now_s: float) -> None:
        """The path beneath is another: what was sent last may be lost with the former one, and timers that have backed
        off begin anew (RFC 9000 section 9.4). The peer hears of it at once."""
        if self._connection:
            self._connection._loss._pto_count = 0
            self._connection._loss.reschedule_data(now=now_s)
            self._connection.send_ping(0)

    def close(self, now_s: float) -> list[bytes]:
        """Close, and the datagrams that say so."""
        farewell: list[bytes] = []
        if self._connection and self.lost is None:
            self._connection.close()
            farewell = self.outgoing(now_s)
            self.lost = "closed here"
        if self._connection:
            vars(self._connection).clear()  # its parts hold each other: they would wait for the garbage collector
            self._connection = None
        return farewell

    def _accept(self, data: bytes, now_s: float) -> None:
        """Begin with the client's first flight, at the server's end."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=_CID_BYTES)
        except ValueError:
            return
        expected = header.packet_type is QuicPacketType.INITIAL and header.destination_cid == self._cid
        if not expected or len(data) < SMALLEST_MAX_DATAGRAM_SIZE:
            return
        connection = _Connection(QuicConfiguration(**self._settings), self._cid)
        connection.receive_datagram(data, _PEER, now_s)
        if connection._state is not QuicConnectionState.FIRSTFLIGHT:  # else it could not be decrypted
            self._connection = connection

    def _digest(self) -> None:
        while self._connection and (event := self._connection.next_event()):
            if isinstance(event, HandshakeCompleted):
                self.established = True
            elif isinstance(event, StreamDataReceived):
                self.received += event.data
                self.ended = self.ended or event.end_stream
            elif isinstance(event, StreamReset):
                self.lost = "reset by the peer"
        if self._connection and (end := self._connection._close_event):  # aioquic tells of it a while later
            orderly = end.error_code == QuicErrorCode.NO_ERROR
            self.lost = "closed by the peer" if orderly else end.reason_phrase or f"QUIC error {end.error_code}"
