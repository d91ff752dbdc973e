"""What is on a stream while its ends prove themselves: frames of the handshake, and records of the tunnel between them.
Each tells its own length."""

from warpfleet.net.handshake import FRAME_BYTES, ProofFailed, is_frame
from warpfleet.net.interfaces import ByteStream

_HEADER_BYTES = 5  # of a record: its type, a version, and how many bytes follow (RFC 8446 section 5.1)
_RECORD_TYPES = range(20, 24)  # RFC 8446 appendix B.1
_RECORD_MAX_BYTES = 16_384 + 256  # RFC 8446 section 5.2


async def read_piece(stream: ByteStream) -> bytes:
    """The next frame or record. ProofFailed where it is neither, ConnectionLost at the end of the stream."""
    header = await stream.read_exactly(_HEADER_BYTES)
    left = FRAME_BYTES - _HEADER_BYTES
    if not is_frame(header):
        left = int.from_bytes(header[3:])
        if header[0] not in _RECORD_TYPES or not 0 < left <= _RECORD_MAX_BYTES:
            raise ProofFailed("neither a frame of the pipe protocol nor a record of TLS")
    return header + await stream.read_exactly(left)
