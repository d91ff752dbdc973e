"""Direct connect: the initiator dials, the responder's listeners answer. This plugin owns the node's listeners."""

import asyncio
import functools
import logging
from collections.abc import Collection, Iterator, Sequence

from warpfleet.core.combo import Phase, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint, Scope, scope_of
from warpfleet.core.errors import MissingError
from warpfleet.core.pairing import Requirement
from warpfleet.core.targets import DIALLING_ALLOWANCE, loopback_alias
from warpfleet.net.handshake import FRAME_BYTES, Frame, ProofFailed
from warpfleet.net.interfaces import ByteStream, ConnectionLost, Listener, PortLease, Unreachable
from warpfleet.plugins.attempt_context import AttemptContext, BegunStream, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import AttemptFactory, Strategy
from warpfleet.plugins.direct_connect.messages import Answer, Greeting
from warpfleet.plugins.head_start import HeadStart
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.node_ports import NodePorts
from warpfleet.plugins.registry import register
from warpfleet.plugins.streams import accept, dial, sure, targets

# Of a node's attempts so many greet by signal at a time. A crowd is bound by what it computes: each signal and its
# acknowledgement would keep all of it waiting, for an answer that then comes too late.
_AHEAD_MAX = 8
# A stream waits no longer for an answer by signal, however long it took to connect itself: a signal across a continent,
# and back.
_ANSWER_MAX_S = 0.2
_SIGNAL_MIN_MS = 10.0  # no signal is there and back sooner, by a broker and several processes
# A peer sends its first frame right after connecting: three round trips of a slow path.
_FIRST_FRAME_S = 3.0
# Whoever has seen a frame could open attempts with it for ever. Streams are opened in the first seconds of a
# connection, and clocks that no NTP server sets are seconds off, not minutes.
_FRAME_AGE_MAX_US = 120_000_000
# Strangers may hold so many streams open while they have not said who they are.
_UNPROVED_MAX = 256

# Descriptors or memory have run out: until some are given back, there is nothing to wait for but time.
_EXHAUSTED_S = 0.5

_log = logging.getLogger(__name__)


@register(phase=Phase.DIRECT)
class DirectConnect(Strategy):
    """One side of a direct connect."""

    name = "direct_connect"
    transport = Transport.TCP
    requirement = Requirement.PEER_REACHABLE
    routes = (RouteType.NIC, RouteType.EXT, RouteType.LOOPBACK)
    allowance = DIALLING_ALLOWANCE
    accepts_streams = True
    proto_messages = (Greeting, Answer)

    def __init__(self, context: AttemptContext, ahead: asyncio.Semaphore) -> None:
        super().__init__(context)
        self._ahead = ahead

    @classmethod
    async def setup(cls, node: NodePorts) -> AttemptFactory | None:
        """Open the node's listeners. MissingError where a port is taken or may not be bound."""
        for endpoint in _listen_endpoints(node):
            listener = await _listen(node, endpoint)
            if listener:
                node.on_close(listener.close)
                node.advertise(listener.local)
                node.spawn(_Door(node, listener).serve())
                if scope_of(listener.local.ip) is not Scope.LOOPBACK:
                    lease = node.network.map_port(listener.local.port, listener.local.af)
                    node.expect(lease.settled)
                    node.spawn(_tell_mapping(node, listener.local, lease))
        return functools.partial(cls, ahead=asyncio.Semaphore(_AHEAD_MAX))

    async def run(self) -> Won:
        context = self.context
        if context.side is Side.RESPONDER or context.theirs is None:
            return await self._accept()
        endpoints = targets(context.mine, context.theirs, context.combo.af, context.combo.route)
        known = sure(endpoints, context.mine, context.theirs, context.combo.route)
        near = context.rtt_ms is not None and context.rtt_ms < _SIGNAL_MIN_MS
        if not known or near or self._ahead.locked():
            return await dial(context, endpoints)
        async with self._ahead:
            return await self._dial_ahead(endpoints, known)

    async def _dial_ahead(self, endpoints: Sequence[Endpoint], known: Collection[Endpoint]) -> Won:
        """Greet by signal, too, for streams where the peer alone can be met: there a pipe is handed over before the
        stream itself has shown where it leads. The answer comes with the stream, or soon after it. Who waits for it in
        vain waits no longer than the round trip that it would have saved, and greets on the stream."""
        context, head_start = self.context, HeadStart(self.context)
        context.send(Greeting, opening=head_start.greet())

        async def begun(endpoint: Endpoint, took_s: float) -> BegunStream | None:
            if endpoint not in known:
                return None
            try:
                async with asyncio.timeout(min(took_s, _ANSWER_MAX_S)):
                    answer = await context.inbox.message(Answer)
                head_start.hear(answer.opening)
            except (TimeoutError, AttemptFailed, ProofFailed):
                return None
            return head_start.begun()

        return await dial(context, endpoints, begun, known)

    async def _accept(self) -> Won:
        context, opening = self.context, self.context.opening
        if not isinstance(opening, Greeting) or not _is_recent(context.node, opening.started_at_us):
            return await accept(context)  # an answer would have the peer count on a door that lets it in
        head_start = HeadStart(context)
        context.send(Answer, opening=head_start.answer(opening.opening))
        return await accept(context, head_start)


def _listen_endpoints(node: NodePorts) -> Iterator[Endpoint]:
    """Every configured port on every family, and one loopback alias: an address of 127/8 that is the node's own, so
    that nodes of one machine reach each other although they share a loopback interface."""
    for port in node.listen_ports:
        yield Endpoint("0.0.0.0", port)  # noqa: S104 - a vantage binds it to its own address or interface
        yield Endpoint("::", port)
    yield Endpoint(loopback_alias(node.identity.public.key), 0)


def _is_recent(node: NodePorts, started_at_us: int) -> bool:
    """Whether a connection may have begun then that is still being made."""
    return abs(node.now_us() - started_at_us) <= _FRAME_AGE_MAX_US


async def _listen(node: NodePorts, endpoint: Endpoint) -> Listener | None:
    try:
        return await node.network.listen_tcp(endpoint)
    except Unreachable:
        return None  # the vantage has no address of this family
    except OSError as error:
        if endpoint.port == 0:
            return None
        raise MissingError(f"node {node.name}: cannot listen on TCP port {endpoint.port}: {error.strerror}") from error


async def _tell_mapping(node: NodePorts, listener: Endpoint, lease: PortLease) -> None:
    while True:
        node.advertise_mapping(listener, await lease.changed())


class _Door:
    """Accepts streams of one listener, and lets in those whose first frame a trusted peer has signed."""

    def __init__(self, node: NodePorts, listener: Listener) -> None:
        self._node = node
        self._listener = listener
        self._unproved: dict[asyncio.Task[None], ByteStream] = {}

    async def serve(self) -> None:
        try:
            while True:
                stream = await self._next()
                if len(self._unproved) >= _UNPROVED_MAX:
                    stream.close()
                    continue
                task = asyncio.create_task(self._admit(stream))
                self._unproved[task] = stream
                task.add_done_callback(self._unproved.pop)
                del stream  # whoever gets it owns it alone: while the next is awaited, it must be free to go
        except ConnectionLost:
            return
        finally:
            for task, stream in self._unproved.items():
                task.cancel()
                stream.close()
            await asyncio.gather(*self._unproved, return_exceptions=True)

    async def _next(self) -> ByteStream:
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                _log.warning("node %s cannot accept a stream: %s", self._node.name, error)
                await asyncio.sleep(_EXHAUSTED_S)

    async def _admit(self, stream: ByteStream) -> None:
        try:
            async with asyncio.timeout(_FIRST_FRAME_S):
                data = await stream.read_exactly(FRAME_BYTES)
            frame = Frame.parse(data)
            peer = self._node.peer_by_key(frame.sender)
            if peer is None or not frame.verify(peer, self._node.identity.public):
                raise ProofFailed("a stranger")
            if not _is_recent(self._node, frame.started_at_us):
                raise ProofFailed("a frame of long ago")
        except (TimeoutError, ConnectionLost, ProofFailed):
            stream.close()
        else:
            self._node.inbound(InboundStream(stream, data))
