"""Drives the handshake over datagrams until both ends agree on the pipe."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from warpfleet.core.combo import Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.net.handshake import Event, Handshake, ProofFailed, is_frame
from warpfleet.net.interfaces import ConnectionLost, DatagramSocket

# The first resends come fast, since a punch often needs two packets to open both filters; then they give way.
_RESEND_FIRST_S = 0.05
_RESEND_FACTOR = 1.5
_RESEND_MAX_S = 0.5
_RESEND_RTTS = 1.5  # of a known round trip: an answer that a busy host delays costs no packet

_SIGNAL_S = 0.2  # a signal across a continent, and a packet back
# A greeting by signal and one on the path come almost at once: the answer to the first has not been lost by then. The
# filter at the other end was open for it, unless one way takes less than half of this: then the greeting comes again.
_ON_ITS_WAY_S = 0.01
EARLY_MAX = 16  # datagrams of a first flight: a few


def next_resend_s(interval_s: float) -> float:
    """How long to wait after the next resend, where it was so long before."""
    return min(interval_s * _RESEND_FACTOR, _RESEND_MAX_S)


Claim = Callable[[], Awaitable[str | None]]
"""Asks whoever names the winner for leave to take this pipe; raises where another was named. Returns the plugin whose
pipe is to move here, None where this is to become a pipe of its own."""


class Tunnel(Protocol):
    """The initiator's end of the tunnel behind the proof."""

    @property
    def established(self) -> bool:
        """Whether the other end is known to be there."""

    def begin(self, early: Iterable[bytes], now_s: float) -> Sequence[bytes]:
        """Begin, or go on with what has come; what to send."""


class Agreed(NamedTuple):
    """Where the peer is, and what came from there for the tunnel before both had agreed. `moves` is the plugin whose
    pipe moves here, if one does; then the responder answers late frames of the initiator with `answer`. `unanswered` is
    the frame that is to be sent again until the peer has agreed, None where it has, and `resend_s` the time until then.
    """

    remote: Endpoint
    early: list[bytes]
    moves: str | None = None
    answer: bytes = b""
    unanswered: bytes | None = None
    resend_s: float = 0.0


class PeerClosed(ConnectionLost):
    """The peer said that this pipe is not needed."""


async def prove_datagram(
    socket: DatagramSocket,
    handshake: Handshake,
    claim: Claim,
    candidates: Sequence[Endpoint],
    *,
    first: Sequence[tuple[bytes, Endpoint]] = (),
    hello: bytes | None = None,
    rtt_ms: float | None = None,
    resend_s: float | None = None,
    tunnel: Tunnel | None = None,
    flight: Sequence[bytes] = (),
    later: Coroutine[Any, Any, Sequence[Endpoint]] | None = None,
) -> Agreed:
    """Prove both ends over a UDP socket towards several candidate endpoints at once, and agree on one. Where the round
    trip is known, nothing is sent again before an answer can have come, unless `resend_s` says when to. `first` are the
    peer's datagrams that were already read, and their sources, `hello` the initiator's frame where a signal had it:
    every candidate gets the answer.

    An authentic packet from an endpoint that nobody predicted is as good as any: the peer-reflexive candidates of
    RFC 8445 section 7.3.1.3. The initiator's `flight` goes ahead of HELLO, the responder's behind PROOF: to a
    candidate, and to whoever has sent as much. Behind TAKE goes, once, what the initiator's `tunnel` begins with: the
    tunnel repeats it. Where its other end is known to be there by then, the responder waits for TAKE alone, and is not
    waited for. `later` has more candidates: those of a signal, on which the peer speaks first.
    PeerClosed, ConnectionLost, or what `claim` or `later` raises. The caller bounds the time; whatever ends the attempt
    without agreement is told to the peer.
    """
    proof = _DatagramProof(socket, handshake, claim, candidates, rtt_ms, tunnel=tunnel, flight=flight, later=later)
    try:
        remote = await proof.run(first, hello, resend_s)
        early = proof.take_early(remote)
        return Agreed(remote, early, proof.moves, proof.answer, proof.unanswered, proof.resend_first_s)
    except BaseException:
        with contextlib.suppress(WarpfleetError):  # the budget may be spent: what ended the attempt says more
            for target in proof.seen:
                socket.send_to(handshake.close(), target)
        raise
    finally:
        await proof.stop()


def _resend_first_s(rtt_s: float) -> float:
    return max(_RESEND_FIRST_S, min(_RESEND_RTTS * rtt_s, _RESEND_MAX_S))


class _DatagramProof:
    def __init__(
        self,
        socket: DatagramSocket,
        handshake: Handshake,
        claim: Claim,
        candidates: Sequence[Endpoint],
        rtt_ms: float | None,
        *,
        tunnel: Tunnel | None,
        flight: Sequence[bytes],
        later: Coroutine[Any, Any, Sequence[Endpoint]] | None,
    ) -> None:
        self._tunnel = tunnel
        self._behind: Sequence[bytes] = ()  # goes behind the next message
        self._repeated: Sequence[bytes] = ()  # and that behind each one that follows
        greets = handshake.side is Side.INITIATOR
        self._ahead: Sequence[bytes] = flight if greets else ()  # goes ahead of each greeting
        self._proof_flight: Sequence[bytes] = () if greets else flight
        self._named_by_peer = frozenset(candidates)
        self._answered_s: dict[Endpoint, float] = {}  # when greetings from there were answered last
        self._given_bytes: Counter[Endpoint] = Counter()  # of the flight, to others
        self._later = asyncio.create_task(later) if later else None
        self.resend_first_s = _resend_first_s((rtt_ms or 0) / 1000)
        self._began_s = asyncio.get_running_loop().time()
        self._socket = socket
        self._handshake = handshake
        self._claim = claim
        self._message = self._opener = handshake.opener()
        self._targets = list(dict.fromkeys(candidates))
        self._chosen: Endpoint | None = None
        self._greeted = (
            False  # the peer mostly asks again, but not where it greeted many ports and knows not which hears
        )
        self._claiming: asyncio.Task[str | None] | None = None
        self.moves: str | None = None
        self.answer = b""
        self._receiving = asyncio.create_task(socket.receive())
        self.seen: set[Endpoint] = set()  # endpoints that authentic frames came from
        self.unanswered: bytes | None = None
        self._taking: bytes | None = None
        self._early: deque[tuple[bytes, Endpoint]] = deque(maxlen=EARLY_MAX)  # the tunnel's, that overtook a frame

    async def run(
        self, first: Sequence[tuple[bytes, Endpoint]], hello: bytes | None, resend_s: float | None
    ) -> Endpoint:
        if first and (agreed := await self._go_on_from(first)):
            return agreed
        if hello:
            self._go_on_from_signal(hello)
        by_signal = self._later or hello
        interval_s = resend_s or (max(self.resend_first_s, _SIGNAL_S) if by_signal else self.resend_first_s)
        while True:
            for target in self._targets:
                for datagram in (*self._ahead, self._message, *self._behind):
                    self._socket.send_to(datagram, target)
            if self._behind:
                self._answered_s = dict.fromkeys(self._targets, asyncio.get_running_loop().time())
            self._behind = self._repeated
            if self.unanswered and self._chosen:
                return self._chosen
            agreed, restart = await self._listen(interval_s)
            if agreed:
                return agreed
            interval_s = self.resend_first_s if restart else next_resend_s(interval_s)

    async def _go_on_from(self, first: Sequence[tuple[bytes, Endpoint]]) -> Endpoint | None:
        """Digest what was read before, and give the peer the time to answer: most paths do within so long."""
        for data, source in first:
            if self._digest(data, source):
                return source
        agreed, _ = await self._listen(_RESEND_MAX_S)
        return agreed

    def _go_on_from_signal(self, hello: bytes) -> None:
        """Prove ourselves unasked; a greeting that is forged is none."""
        with contextlib.suppress(ProofFailed):
            self._message = self._handshake.receive(hello).reply or self._message
            self._behind = self._repeated = self._proof_flight

    async def stop(self) -> None:
        tasks = self._waiting()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take_early(self, remote: Endpoint) -> list[bytes]:
        """What came from there for the tunnel; the rest is forgotten."""
        early = [data for data, source in self._early if source == remote]
        self._early.clear()
        return early

    def _waiting(self) -> set[asyncio.Future[Any]]:
        return {task for task in (self._receiving, self._claiming, self._later) if task}

    async def _listen(self, duration_s: float) -> tuple[Endpoint | None, bool]:
        """Digest what arrives for so long: the agreed endpoint if there is one, and whether the message changed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + duration_s
        while (left_s := end - loop.time()) > 0:
            done, _ = await asyncio.wait(self._waiting(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if self._receiving in done:
                data, source = self._receiving.result()
                self._receiving = asyncio.create_task(self._socket.receive())
                if self._digest(data, source):
                    return source, False
                if self._greeted:
                    end = loop.time() + _RESEND_MAX_S
            if self._claiming and self._claiming in done:
                self.moves = self._claiming.result()
                self._claiming = None
                self._name()
                return None, True
            if self._later and self._later in done and self._add(self._later.result()):
                return None, True
        return None, False

    def _name(self) -> None:
        """We have leave to take this path, or to move a pipe here."""
        assert self._chosen
        self._taking = None if self.moves else self._handshake.take()
        self._message = self._taking or self._handshake.move(self.moves or "")
        self._targets = [self._chosen]
        self._ahead, self._behind = (), self._tunnel_flight()

    def _tunnel_flight(self) -> Sequence[bytes]:
        """What our end of the tunnel sends, once TAKE has gone out or is about to."""
        if not (self._tunnel and self._taking and self._chosen):
            return ()
        flight = self._tunnel.begin(self.take_early(self._chosen), asyncio.get_running_loop().time())
        self.unanswered = self._taking if self._tunnel.established else None
        return flight

    def _add(self, candidates: Sequence[Endpoint]) -> bool:
        """Try these, too; whether there is anything new among them."""
        self._later = None
        new = [candidate for candidate in candidates if candidate not in self._targets]
        self._targets += new
        return bool(new)

    def _digest(self, data: bytes, source: Endpoint) -> bool:
        if is_frame(data):
            return self._digest_frame(data, source)
        self._early.append((data, source))
        if source != self._chosen:
            return False
        for datagram in self._tunnel_flight():
            self._socket.send_to(datagram, source)
        return self.unanswered is not None

    def _digest_frame(self, data: bytes, source: Endpoint) -> bool:
        try:
            received = self._handshake.receive(data)
        except ProofFailed:
            return False
        if received.reply and not self._on_its_way(received.event, source):
            try:
                for datagram in (received.reply, *self._flight_behind(received.event, source)):
                    self._socket.send_to(datagram, source)
            except WarpfleetError:
                return False  # an endpoint beyond what this attempt may send to: as if it had not been heard
        self.seen.add(source)
        self._note(received.event, source)
        if received.event is Event.MOVED and received.frame:
            self.moves, self.answer = received.frame.plugin, received.reply or b""
            return True
        return received.event is Event.TAKEN or (received.event is Event.AGREED and source == self._chosen)

    def _on_its_way(self, event: Event, source: Endpoint) -> bool:
        """Whether the answer to a greeting has just been sent."""
        if event is not Event.GREETED:
            return False
        now_s = asyncio.get_running_loop().time()
        if now_s - self._answered_s.get(source, -1.0) < _ON_ITS_WAY_S:
            return True
        self._answered_s[source] = now_s
        return False

    def _flight_behind(self, event: Event, source: Endpoint) -> Sequence[bytes]:
        """Whoever repeats a HELLO from elsewhere gets no more than it has sent."""
        if event is not Event.GREETED:
            return ()
        if source not in self._named_by_peer:
            sent_bytes = sum(len(data) for data, whence in self._early if whence == source)
            due_bytes = self._given_bytes[source] + sum(map(len, self._proof_flight))
            if sent_bytes < due_bytes:
                return ()
            self._given_bytes[source] = due_bytes
        return self._proof_flight

    def _note(self, event: Event, source: Endpoint) -> None:
        if event is Event.KNOCKED and self._chosen is None and source not in self._targets:
            self._targets.append(source)  # a responder that we have greeted waits for us to ask again
        if event is Event.GREETED:
            self._greeted = True
            self._targets = [source]
            self._message, self._behind, self._repeated = self._opener, (), ()
        if event is Event.PROVED and self._chosen is None:
            took_s = asyncio.get_running_loop().time() - self._began_s  # a signal, or a packet of ours, and the proof
            self.resend_first_s = max(self.resend_first_s, _resend_first_s(min(took_s, _SIGNAL_S)))
            if self._later:
                self._later.cancel()
                self._later = None
            self._chosen = source
            self._targets = []
            self._claiming = asyncio.ensure_future(self._claim())
        if event is Event.CLOSED:
            raise PeerClosed("the peer closed this pipe")
