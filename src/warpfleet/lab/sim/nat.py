"""One router's NAT, or its firewall, as a point in the space of RFC 4787. Pure: it is given each packet and the time.

It does what the rulesets of the kernel laboratory do (`lab.nat_rules`), Linux's connection tracking beneath them
included: what passes in either direction keeps a session, and with it the mapping, alive.
"""

import random
from dataclasses import dataclass, field, replace
from enum import Enum

from warpfleet.configs.topology import NatSpec
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.port_range import WHOLE, PortRange
from warpfleet.lab.sim.packet import Flags, Packet, Segment

# A sequential allocator keeps within a span, and begins anew at its end.
_SEQUENCE_SPAN = 16_384
_RANDOM_TRIES = 128  # with half of all ports taken, that all of so many are is a matter of never
# RFC 5382 section 5, REQ-5: four minutes at least without an established connection, two hours and four with one.
_TCP_TRANSITORY_S = 240.0
_TCP_ESTABLISHED_S = 7440.0
_TCP_CLOSED_S = 10.0  # Linux, after a RST


class Drop(Enum):
    """Why a packet goes no further."""

    UDP_BLOCKED = "udp_blocked"
    PORT_BLOCKED = "port_blocked"  # a TCP port that hosts behind it may not connect to
    NO_PORT = "no_port"  # every external port is taken
    UNMAPPED = "unmapped"  # nobody behind it has that port
    FILTERED = "filtered"  # who sends has not been sent to
    NO_SESSION = "no_session"  # a segment of a connection whose SYN did not pass
    NO_HAIRPIN = "no_hairpin"


class Tcp(Enum):
    """How far a TCP connection has come, as a router sees it."""

    OPENING = "opening"
    ESTABLISHED = "established"
    CLOSING = "closing"
    CLOSED = "closed"


class Way(Enum):
    """Where a packet is heading."""

    OUT = "out"
    IN = "in"


_TCP_LIFETIMES_S = {
    Tcp.OPENING: _TCP_TRANSITORY_S,
    Tcp.ESTABLISHED: _TCP_ESTABLISHED_S,
    Tcp.CLOSING: _TCP_TRANSITORY_S,
    Tcp.CLOSED: _TCP_CLOSED_S,
}


def next_tcp(state: Tcp, first: Way, way: Way, flags: Flags) -> Tcp:
    """The state after a segment; `first` is where the connection's first segment was heading.

    An answer with ACK establishes, a FIN begins the end, a RST is the end, and a SYN opens again what was ending.
    """
    if flags & Flags.RST:
        return Tcp.CLOSED
    if state in (Tcp.CLOSING, Tcp.CLOSED):
        return Tcp.OPENING if flags & Flags.SYN else state
    if flags & Flags.FIN:
        return Tcp.CLOSING
    if flags & Flags.ACK and way is not first:
        return Tcp.ESTABLISHED
    return state


@dataclass(slots=True)
class _Session:
    """What is exchanged with one remote endpoint."""

    first: Way
    expires_s: float = 0.0
    tcp: Tcp = Tcp.OPENING


@dataclass(slots=True)
class _Mapping:
    """One external endpoint and whose it is. `expires_s` is for the mapping without any session."""

    internal: Endpoint
    external: Endpoint
    expires_s: float = 0.0
    open_until_s: float = 0.0  # strangers are let in until then: a host has asked for it
    sessions: dict[Endpoint, _Session] = field(default_factory=dict)

    def session(self, remote: Endpoint, now_s: float) -> _Session | None:
        found = self.sessions.get(remote)
        return found if found and found.expires_s > now_s else None

    def has_sent_to(self, ip: str, now_s: float) -> bool:
        return any(s.expires_s > now_s and s.first is Way.OUT for e, s in self.sessions.items() if e.ip == ip)

    def live(self, now_s: float) -> bool:
        return max(self.expires_s, self.open_until_s) > now_s or any(
            session.expires_s > now_s for session in self.sessions.values()
        )


_Key = tuple[Transport, Endpoint, str | Endpoint | None]


class Nat:
    """Translates and filters the packets of one router with the address `external_ip`."""

    def __init__(self, spec: NatSpec, external_ip: str, rng: random.Random) -> None:
        self.spec = spec
        self._external_ip = external_ip
        self._rng = rng
        self._by_key: dict[_Key, _Mapping] = {}
        self._by_external: dict[tuple[Transport, Endpoint], _Mapping] = {}
        self._sequence = 0
        low = rng.randrange(WHOLE.first, WHOLE.last - _SEQUENCE_SPAN)
        self._sequence_range = spec.port_range or PortRange(low, low + _SEQUENCE_SPAN)

    def outbound(self, packet: Packet, now_s: float) -> Packet | Drop:
        """What leaves towards the internet for a packet from behind, or why nothing does."""
        key = self._key(packet.transport, packet.source, packet.destination)
        known = self._live(self._by_key.get(key), now_s)
        session = known.session(packet.destination, now_s) if known else None
        if session is None and (blocked := self._blocked(packet)):
            return blocked
        mapping = known or self._map(key, packet, now_s)
        if mapping is None:
            return Drop.NO_PORT
        self._pass(mapping, packet.destination, Way.OUT, packet, now_s)
        return replace(packet, source=mapping.external)

    def inbound(self, packet: Packet, now_s: float) -> Packet | Drop:
        """What arrives behind the router for a packet from the internet, or why nothing does."""
        if packet.transport is Transport.UDP and self.spec.udp_blocked:
            return Drop.UDP_BLOCKED
        mapping = self._mapped(packet, now_s)
        if mapping is None:
            return Drop.UNMAPPED
        segment = packet.payload if isinstance(packet.payload, Segment) else None
        session = mapping.session(packet.source, now_s)
        if session is None:
            if not self._admits(mapping, packet.source, now_s):
                return Drop.FILTERED
            if segment and not segment.opens:
                return Drop.NO_SESSION
        elif segment and segment.opens and session.tcp is Tcp.CLOSED and session.first is Way.OUT:
            return Drop.NO_SESSION  # to Linux, a SYN that answers a closed connection is invalid
        return self._let_in(mapping, packet, now_s)

    def hairpin(self, packet: Packet, now_s: float) -> Packet | Drop:
        """What arrives behind the router for a packet from behind it to its own external address (RFC 4787 section 6).

        The source is the external endpoint (REQ-9 a); filtering is for strangers.
        """
        if not self.spec.hairpinning:
            return Drop.NO_HAIRPIN
        target = self._mapped(packet, now_s)
        if target is None:
            return Drop.UNMAPPED
        outside = self.outbound(packet, now_s)
        return outside if isinstance(outside, Drop) else self._let_in(target, outside, now_s)

    def open_port(self, internal: Endpoint, suggested: int, lifetime_s: float, now_s: float) -> Endpoint | None:
        """Let strangers in to a TCP port for so long, 0 ending it (RFC 6887 section 11.3): the external endpoint, the
        suggested port where that is free. None where no port is."""
        asked = (mapping for mapping in self._by_external.values() if mapping.open_until_s > now_s)
        mapping = next((mapping for mapping in asked if mapping.internal == internal), None)
        if mapping is None:
            external = internal
            if self.spec.translated:
                port = (
                    suggested if self._free(Transport.TCP, suggested, now_s) else self._any_port(Transport.TCP, now_s)
                )
                if port is None:
                    return None
                external = Endpoint(self._external_ip, port)
            mapping = self._by_external[Transport.TCP, external] = _Mapping(internal, external)
        mapping.open_until_s = now_s + lifetime_s
        return mapping.external

    def _key(self, transport: Transport, internal: Endpoint, remote: Endpoint) -> _Key:
        """What a mapping is found by on the way out (RFC 4787 section 4.1)."""
        if not self.spec.translated or self.spec.mapping is Mapping.EIM:
            return transport, internal, None
        return transport, internal, remote.ip if self.spec.mapping is Mapping.ADM else remote

    def _blocked(self, packet: Packet) -> Drop | None:
        if not isinstance(packet.payload, Segment):
            return Drop.UDP_BLOCKED if self.spec.udp_blocked else None
        ports = self.spec.tcp_out_ports
        return Drop.PORT_BLOCKED if ports and packet.destination.port not in ports else None

    def _mapped(self, packet: Packet, now_s: float) -> _Mapping | None:
        key = packet.transport, packet.destination
        found = self._live(self._by_external.get(key), now_s)
        if found is None and not self.spec.translated:  # every endpoint behind a mere firewall is its own mapping
            found = _Mapping(packet.destination, packet.destination)
        return found

    def _admits(self, mapping: _Mapping, remote: Endpoint, now_s: float) -> bool:
        """Whether the filter lets in an endpoint that there is no session with (RFC 4787 section 5)."""
        if mapping.open_until_s > now_s:
            return True
        if self.spec.filtering is Filtering.ADF:
            return mapping.has_sent_to(remote.ip, now_s)
        return self.spec.filtering is Filtering.EIF

    def _let_in(self, mapping: _Mapping, packet: Packet, now_s: float) -> Packet:
        self._pass(mapping, packet.source, Way.IN, packet, now_s)
        self._by_external[packet.transport, mapping.external] = mapping
        # An answer leaves by the mapping that the question came in by, whatever the mapping behaviour.
        answer = self._key(packet.transport, mapping.internal, packet.source)
        if self._live(self._by_key.get(answer), now_s) is None:
            self._by_key[answer] = mapping
        return replace(packet, destination=mapping.internal)

    def _pass(self, mapping: _Mapping, remote: Endpoint, way: Way, packet: Packet, now_s: float) -> None:
        """Note a packet that passes: what it keeps alive, and for how long (RFC 4787 section 4.3, RFC 5382 REQ-5)."""
        session = mapping.session(remote, now_s)
        if session is None:
            session = mapping.sessions[remote] = _Session(first=way)
        lifetime_s = float(self.spec.udp_lifetime_s)
        if isinstance(packet.payload, Segment):
            session.tcp = next_tcp(session.tcp, session.first, way, packet.payload.flags)
            lifetime_s = _TCP_LIFETIMES_S[session.tcp]
        session.expires_s = now_s + lifetime_s
        if way is Way.OUT:
            idle_s = self.spec.udp_lifetime_s if packet.transport is Transport.UDP else _TCP_TRANSITORY_S
            mapping.expires_s = now_s + idle_s

    def _map(self, key: _Key, packet: Packet, now_s: float) -> _Mapping | None:
        external = packet.source
        if self.spec.translated:
            port = self._port(packet.transport, packet.source.port, now_s)
            if port is None:
                return None
            external = Endpoint(self._external_ip, port)
        mapping = _Mapping(packet.source, external)
        self._by_key[key] = self._by_external[packet.transport, external] = mapping
        return mapping

    def _port(self, transport: Transport, internal_port: int, now_s: float) -> int | None:
        """A free external port, by the router's way of assigning them (RFC 4787 section 4.2)."""
        if self.spec.port_assignment is PortAssignment.SEQUENTIAL:
            return self._next_in_sequence(transport, now_s)
        if self.spec.port_assignment is PortAssignment.PRESERVING and self._free(transport, internal_port, now_s):
            return internal_port
        return self._any_port(transport, now_s)  # preserving, too, where another host has that port already

    def _any_port(self, transport: Transport, now_s: float) -> int | None:
        tries = (self._rng.randint(*(self.spec.port_range or WHOLE)) for _ in range(_RANDOM_TRIES))
        return next((port for port in tries if self._free(transport, port, now_s)), None)

    def _next_in_sequence(self, transport: Transport, now_s: float) -> int | None:
        delta = self.spec.port_delta
        first, last = self._sequence_range
        length = (last - first) // abs(delta)
        start = first if delta > 0 else last
        for _ in range(length):
            port = start + self._sequence % length * delta
            self._sequence += 1
            if self._free(transport, port, now_s):
                return port
        return None

    def _free(self, transport: Transport, port: int, now_s: float) -> bool:
        taken = self._by_external.get((transport, Endpoint(self._external_ip, port)))
        return self._live(taken, now_s) is None

    @staticmethod
    def _live(mapping: _Mapping | None, now_s: float) -> _Mapping | None:
        return mapping if mapping and mapping.live(now_s) else None
