"""TCP streams of one attempt: where to dial, racing several of them, and waiting for those that the peer opens."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager

from warpfleet.core.combo import Reason, RouteType
from warpfleet.core.endpoint import Endpoint, Scope, scope_of
from warpfleet.core.peer import AddressFamily, PeerView, shared_subnet
from warpfleet.net.handshake import ProofFailed
from warpfleet.net.interfaces import ByteStream
from warpfleet.plugins.attempt_context import AttemptContext, BegunStream, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.head_start import HeadStart, goes_on
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.racers import end_racers

TARGETS_MAX = 8  # a peer has a few addresses and ports; more would make us a port scanner
# TCP sends a lost SYN again after 1 s, the next one 2 s later (RFC 6298 section 2.1), and has then forgotten how long a
# round trip is (section 5.7): a second stream is there sooner. Most paths need no more than this for the first.
_AGAIN_S = 0.7
# The initiator closes the streams that lose as soon as one has won. Of two streams, what was sent last on one may be
# there before what was sent first on the other: by so long, on a slow path or a busy machine.
_OVERTAKEN_S = 0.5
# Within so many round trips the first stream is proved: an answer by signal that is waited for in vain, the proof on
# the stream, and one to spare.
_FIRST_RTTS = 3

Begins = Callable[[Endpoint, float], Awaitable[BegunStream | None]]
"""Asked for a stream to an endpoint, which took so many seconds to connect: what signals have begun for it, if any."""


async def not_begun(_endpoint: Endpoint, _took_s: float) -> BegunStream | None:
    """For streams on which everything is said."""
    return None


def targets(mine: PeerView, theirs: PeerView, af: AddressFamily, route: RouteType) -> list[Endpoint]:
    """Where the peer may listen, for one family and route type, at most `TARGETS_MAX` endpoints; mapped ones first."""
    found: list[Endpoint] = []
    if route is RouteType.LOOPBACK:
        found = [e for e in theirs.listeners if e.af == af and scope_of(e.ip) is Scope.LOOPBACK]
    elif route is RouteType.NIC:
        found = [Endpoint(i.ip, port) for i in shared_subnet(mine, theirs, af) for port in theirs.ports(af)]
    elif af in theirs.external:
        unmapped = [Endpoint(theirs.external[af], port) for port in theirs.ports(af)]
        found = list(dict.fromkeys((*theirs.mappings(af), *unmapped)))
    return found[:TARGETS_MAX]


def sure(endpoints: Sequence[Endpoint], mine: PeerView, theirs: PeerView, route: RouteType) -> list[Endpoint]:
    """Those of the peer's endpoints where streams come in, and nobody but the peer can be met, by its record: of a host
    that anybody reaches, and mapped ones. Around our own router we may meet the router itself."""
    if route is not RouteType.EXT:
        return []
    return [
        e
        for e in endpoints
        if mine.external.get(e.af) != theirs.external.get(e.af) and (theirs.behaviour(e.af).open or e in theirs.mapped)
    ]


async def dial(
    context: AttemptContext,
    endpoints: Sequence[Endpoint],
    begins: Begins = not_begun,
    known: Collection[Endpoint] = (),
) -> Won:
    """Connect to every endpoint at once, and once more where that takes long; the first stream to prove itself becomes
    the pipe, the others are closed. Streams to those that are `known` come first.

    Where none does, raises what the last one raised: the most patient failure says most.
    """
    if not endpoints:
        raise AttemptFailed(Reason.NO_ADDRESS, "the peer advertises no address to dial")

    first = _First()

    async def dial_one(endpoint: Endpoint) -> Won:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        stream = await context.network.connect_tcp(endpoint, timeout_s=context.timeout_s)
        took_s = loop.time() - began_s
        async with first.before(stream, _FIRST_RTTS * took_s, leads=not known or endpoint in known):
            begun = await begins(endpoint, took_s)
            return await context.prove_stream(stream, begun=begun)

    async def dial_again(endpoint: Endpoint, first: asyncio.Task[Won]) -> Won:
        """A second stream beside one that takes long, and no longer than that."""
        done, _ = await asyncio.wait([first], timeout=_AGAIN_S)
        if done:
            return first.result()
        second = asyncio.create_task(dial_one(endpoint))
        pipe: Won | None = None
        try:
            await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            pipe = (first if first.done() else second).result()
        finally:
            await end_racers([second], keep=pipe)
        return pipe

    racers = [asyncio.create_task(dial_one(endpoint)) for endpoint in endpoints[:TARGETS_MAX]]
    racers += [asyncio.create_task(dial_again(*each)) for each in zip(endpoints, list(racers), strict=False)]
    try:
        pipe = await _first(racers)
        await end_racers(racers, keep=pipe)
    except BaseException:
        await end_racers(racers)
        raise
    return pipe


class _First:
    """Of several streams to one host that are there at the same time, one is proved, and the others wait for a while:
    they all lead to the same peer mostly, and each would cost both ends as much as the first."""

    def __init__(self) -> None:
        self._taken = False
        self._fails: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def before(self, stream: ByteStream, wait_s: float, *, leads: bool) -> AsyncIterator[None]:
        """Enter at once as the first that `leads`, or later: so much later, or when the first has failed. An error
        closes the stream."""
        first = leads and not self._taken
        self._taken = self._taken or first
        try:
            if not first:
                await asyncio.wait([self._fails], timeout=wait_s)
            yield
        except BaseException:
            stream.close()
            if first:
                self._fails.set_result(None)
            raise


async def _first(racers: Sequence[asyncio.Task[Won]]) -> Won:
    for racer in asyncio.as_completed(racers):
        try:
            return await racer
        except Exception as error:  # noqa: BLE001 - kept, and raised when nobody wins
            last = error
    raise last


async def accept(context: AttemptContext, head_start: HeadStart | None = None) -> Won:
    """Wait for the streams that the peer opens for this attempt; the first to prove itself becomes the pipe. One may go
    on with the head start.

    Fails where a stream came, none is left and none follows soon, as the last one did.
    """
    racers: dict[asyncio.Task[Won], ByteStream] = {}
    try:
        winner = await _first_accepted(context, head_start, racers)
        await end_racers([racer for racer in racers if racer is not winner])
    except BaseException:
        _close(racers.values())
        await end_racers(list(racers))
        raise
    _close(stream for racer, stream in racers.items() if racer is not winner)
    return winner.result()


async def _first_accepted(
    context: AttemptContext, head_start: HeadStart | None, racers: dict[asyncio.Task[Won], ByteStream]
) -> asyncio.Task[Won]:
    """Prove each stream that arrives, in a task that is added to `racers`; the first task to succeed."""
    arrival: asyncio.Task[InboundStream] | None = None
    proving: set[asyncio.Task[Won]] = set()
    failed: asyncio.Task[Won] | None = None
    try:
        while True:
            arrival = arrival or asyncio.create_task(context.inbox.stream())
            left_s = _OVERTAKEN_S if failed and not proving else None
            done, _ = await asyncio.wait({arrival, *proving}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if failed and not done:
                failed.result()
            for racer in proving & done:
                if racer.exception() is None:
                    return racer
                failed = racer
            proving -= done
            if arrival in done:
                inbound, arrival = arrival.result(), None
                if len(proving) >= TARGETS_MAX:
                    inbound.stream.close()
                    continue
                racer = asyncio.create_task(_prove_inbound(context, head_start, inbound))
                racers[racer] = inbound.stream
                proving.add(racer)
    finally:
        if arrival:
            await end_racers([arrival])


async def _prove_inbound(context: AttemptContext, head_start: HeadStart | None, inbound: InboundStream) -> Won:
    begun = None
    if goes_on(inbound.first_frame):
        begun = head_start.begun() if head_start else None
        if begun is None:
            inbound.stream.close()
            raise ProofFailed("it goes on with what was not begun, or what another stream goes on with")
    return await context.prove_stream(inbound.stream, inbound.first_frame, begun=begun)


def _close(streams: Iterable[ByteStream]) -> None:
    """Close the streams, also of tasks that were cancelled before their first step."""
    for stream in streams:
        stream.close()
