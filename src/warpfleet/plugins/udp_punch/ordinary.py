"""The ordinary way of a UDP punch: STUN, candidates of both sides, and only then the first frames between them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from warpfleet.core.combo import RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Kind
from warpfleet.net.interfaces import DatagramSocket
from warpfleet.plugins.attempt_context import Won
from warpfleet.plugins.udp_punch.exchange import Exchange, endpoints
from warpfleet.plugins.udp_punch.messages import Offer
from warpfleet.plugins.udp_punch.plan import RUN_SOCKETS, ahead, behind, candidates
from warpfleet.plugins.volley import Volley, close_all, open_sockets

# Other attempts wait for their turn no longer. Who answers later may find their mappings where ours were to be.
_TURN_S = 2.0


async def punch(exchange: Exchange, offer: Offer | None) -> Won:
    """One side of it: the responder's with the initiator's offer."""
    if not exchange.predicts:
        return await _from_one_socket(exchange, offer)
    return await (_follow(exchange, offer) if offer else _lead(exchange))


async def _from_one_socket(exchange: Exchange, offer: Offer | None) -> Won:
    """Whose endpoint is known."""
    context = exchange.context
    socket = await context.network.open_udp(context.combo.af)
    try:
        own = await _candidates(exchange, socket)
        if offer:
            exchange.tell(own)
            theirs = endpoints(offer.candidates)
        else:
            _let_in_the_first_frame(exchange, socket)
            exchange.offer(own)
            theirs = await exchange.answer()
    except BaseException:
        socket.close()
        raise
    return await context.prove_datagram(socket, theirs)


def _let_in_the_first_frame(exchange: Exchange, socket: DatagramSocket) -> None:
    """The first frame of a peer whose port is hidden mostly comes before its answer."""
    address = exchange.context.theirs and exchange.context.theirs.external.get(exchange.context.combo.af)
    if address and exchange.external and exchange.theirs in (Kind.SEQUENTIAL, Kind.RANDOM):
        exchange.open_filter(socket, address)


async def _candidates(exchange: Exchange, socket: DatagramSocket) -> list[Endpoint]:
    context = exchange.context
    reflexive = await exchange.reflexive(socket) if exchange.external else None
    interfaces = context.network.interfaces() if context.combo.route is RouteType.NIC else ()
    return candidates(context.combo.route, socket.local.port, interfaces, reflexive, context.combo.af)


async def _lead(exchange: Exchange) -> Won:
    """Say where a run of mappings will be, and open it once it is known towards whom: to the likeliest candidate, since
    each further one would take a run of its own."""
    context = exchange.context
    sockets = await open_sockets(context.network, context.combo.af, RUN_SOCKETS)
    try:
        async with exchange.turns.leading:
            exchange.offer(ahead(await exchange.reflexive(sockets[0]), exchange.delta))
            answered = await _greet_in_time(exchange, sockets)
        if not answered:
            exchange.greet(sockets, (await exchange.answer())[:1])
    except BaseException:
        close_all(sockets)
        raise
    return await Volley(context, sockets).prove()  # the mappings are there, and the peer sends again


async def _greet_in_time(exchange: Exchange, sockets: Sequence[DatagramSocket]) -> bool:
    """Open the run where the answer comes while it is our turn; whether it did."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_TURN_S):
            exchange.greet(sockets, (await exchange.answer())[:1])
            return True
    return False


async def _follow(exchange: Exchange, offer: Offer) -> Won:
    """Open a mapping towards the peer, and say where it is: right before the one that STUN shows."""
    context = exchange.context
    likeliest = endpoints(offer.candidates[:1])
    socket = await context.network.open_udp(context.combo.af)
    try:
        async with exchange.turns.answering:
            exchange.greet([socket], likeliest)
            latest = await exchange.reflexive(socket)
        exchange.tell(behind(latest, exchange.delta))
    except BaseException:
        socket.close()
        raise
    return await context.prove_datagram(socket, likeliest)
