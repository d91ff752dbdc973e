"""What travels: UDP datagrams and TCP segments between transport addresses."""

from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import Self

from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint


class Flags(Flag):
    """The control bits of a segment (RFC 9293 section 3.1)."""

    NONE = 0
    SYN = auto()
    ACK = auto()
    FIN = auto()
    RST = auto()


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment. `seq` and `ack` count bytes; SYN and FIN take one each."""

    flags: Flags
    seq: int
    ack: int = 0
    data: bytes = b""

    @property
    def end(self) -> int:
        """The sequence number after everything in it."""
        return self.seq + len(self.data) + bool(self.flags & (Flags.SYN | Flags.FIN))

    @property
    def opens(self) -> bool:
        """Whether it asks for a connection: a SYN that answers nothing."""
        return self.flags & (Flags.SYN | Flags.ACK) == Flags.SYN


@dataclass(frozen=True, slots=True)
class Packet:
    """A datagram (bytes) or a segment on its way, which passes fewer routers than `hop_limit`; None: as many as it
    must."""

    source: Endpoint
    destination: Endpoint
    payload: bytes | Segment
    hop_limit: int | None = None

    @property
    def transport(self) -> Transport:
        """UDP or TCP."""
        return Transport.TCP if isinstance(self.payload, Segment) else Transport.UDP

    def forwarded(self) -> Self | None:
        """What a router sends on; None where it has come as far as it may (RFC 1812 section 5.3.1)."""
        if self.hop_limit is None:
            return self
        return replace(self, hop_limit=self.hop_limit - 1) if self.hop_limit > 1 else None


def reset_for(packet: Packet, segment: Segment) -> Packet:
    """The RST that whoever has no connection for a segment answers it with (RFC 9293 section 3.10.7.1)."""
    if segment.flags & Flags.ACK:
        answer = Segment(Flags.RST, segment.ack)
    else:
        answer = Segment(Flags.RST | Flags.ACK, 0, segment.end)
    return Packet(packet.destination, packet.source, answer)
