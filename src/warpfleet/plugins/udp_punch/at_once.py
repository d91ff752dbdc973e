"""The way of a UDP punch where a standing socket is at one end at least: nobody asks first where it is, and the offer
greets, so that the first frame of the responder proves it."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any

from warpfleet.core.combo import Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering
from warpfleet.core.pairing import Kind
from warpfleet.net.interfaces import DatagramSocket
from warpfleet.plugins.attempt_context import Begun, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.greeting import Greeting, greet, greeted
from warpfleet.plugins.racers import end_racers
from warpfleet.plugins.standing import Borrowed
from warpfleet.plugins.udp_punch.exchange import Exchange, endpoints
from warpfleet.plugins.udp_punch.messages import Offer
from warpfleet.plugins.udp_punch.plan import HIDDEN_PORT, RUN_SOCKETS, ahead, behind
from warpfleet.plugins.volley import Volley, close_all, open_sockets

# A frame may have to be sent again after 0.2 s, and takes a while.
_PATIENCE_MIN_S = 0.3
# Whoever has proved itself agrees a round trip later. It was heard after a signal's way and its own: twice as long has
# room for that.
_AGREE_FACTOR = 2
# What has to follow a signal through the filter that it opens at its other end: a signal is seldom that much slower.
_BEHIND_SIGNAL_S = 0.03


class Initiation:
    """The initiator's side."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._context = exchange.context
        self._limit = asyncio.timeout(None)
        self._began_s = asyncio.get_running_loop().time()
        self._waits = self._proved = False

    async def run(self) -> Won | None:
        """None where there is no such way, or where the peer has answered the offer, and nothing else has come from it
        for as long again: an endpoint that was true a while ago may be no more. AttemptFailed where we go unheard."""
        way = self._way()
        if way is None:
            return None
        with suppress(TimeoutError):
            async with self._limit:
                return await way
        if self._proved:
            raise AttemptFailed(Reason.NO_ANSWER, "the peer is heard, and does not hear us")
        return None

    def _way(self) -> Coroutine[Any, Any, Won] | None:
        exchange, theirs = self._exchange, self._context.theirs
        if theirs is None:
            return None
        standing = theirs.standing_endpoint(self._context.combo.plugin, self._context.combo.af)
        if borrowed := exchange.borrow():
            return self._from_standing(borrowed, standing, theirs.external[self._context.combo.af])
        if standing is None or not exchange.external:
            return None
        if exchange.predicts:
            return self._from_a_run(standing)
        return self._from_anywhere(standing) if exchange.theirs is Kind.EASY else None

    async def _from_standing(self, borrowed: Borrowed, standing: Endpoint | None, address: str) -> Won:
        """To where the peer is, or, where only it can find us, to its address, so that it may come in. A host that
        anybody reaches over TCP uses no pipe before it has seen UDP get out: without it there is another way."""
        socket, standing_socket = self._context.guard(borrowed.socket), self._exchange.standing
        self._waits = self._context.mine.behaviour(self._context.combo.af).open and not standing_socket.gets_out
        try:
            if standing is None:
                self._exchange.open_filter(socket, address)
            begun = self._greet([borrowed.endpoint])._replace(flight=(), waits=self._waits)
        except BaseException:
            socket.close()
            raise
        won = await self._prove(socket, [standing] if standing else [], begun)
        standing_socket.gets_out = standing_socket.gets_out or self._waits
        return won

    async def _from_anywhere(self, standing: Endpoint) -> Won:
        """To a peer that lets us in whatever our port is, which so nobody need know."""
        context = self._context
        socket = await context.network.open_udp(context.combo.af)
        assert context.theirs
        filters = context.theirs.behaviour(context.combo.af).filtering is not Filtering.EIF
        try:
            begun = self._greet([Endpoint(context.mine.external[context.combo.af], HIDDEN_PORT)])
        except BaseException:
            socket.close()
            raise
        return await self._prove(socket, [standing], begun._replace(resend_s=_BEHIND_SIGNAL_S if filters else None))

    async def _from_a_run(self, standing: Endpoint) -> Won:
        """From one of a run of mappings, of which the peer is told where they will be."""
        context, exchange = self._context, self._exchange
        sockets = await open_sockets(context.network, context.combo.af, RUN_SOCKETS)
        try:
            async with exchange.turns.leading:
                latest = await exchange.reflexive(sockets[0])
                exchange.greet(sockets, [standing])
            begun = self._greet(ahead(latest, exchange.delta))
        except BaseException:
            close_all(sockets)
            raise
        volley = Volley(context, sockets, begun._replace(flight=()))
        return await volley.prove(self._answer(), on_proved=self._wait_no_more)

    def _greet(self, own: Iterable[Endpoint]) -> Begun:
        greeting, begun = greet(self._context)
        self._exchange.offer(own, greeting)
        return begun

    async def _prove(self, socket: DatagramSocket, targets: list[Endpoint], begun: Begun) -> Won:
        return await self._context.prove_datagram(
            socket, targets, begun=begun, later=self._answer(), on_proved=self._wait_no_more
        )

    async def _answer(self) -> list[Endpoint]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        theirs = await self._exchange.answer()
        now_s = loop.time()
        self._limit.reschedule(now_s + max(now_s - began_s, _PATIENCE_MIN_S))
        return theirs

    def _wait_no_more(self) -> None:
        """The peer has proved itself: what is left is its agreement, for which not every pipe waits."""
        if self._limit.expired():
            return
        self._proved = True
        now_s = asyncio.get_running_loop().time()
        patience_s = max(_AGREE_FACTOR * (now_s - self._began_s), _PATIENCE_MIN_S)
        self._limit.reschedule(now_s + patience_s if self._waits else None)


async def respond(exchange: Exchange, offer: Offer, greeting: Greeting) -> Won | Offer:
    """The responder's side, or the initiator's next offer, where nothing of ours has come there."""
    meeting = asyncio.create_task(_meet(exchange, endpoints(offer.candidates), greeting))
    again = asyncio.create_task(exchange.context.inbox.message(Offer))
    won: Won | None = None
    try:
        await asyncio.wait({meeting, again}, return_when=asyncio.FIRST_COMPLETED)
        if not meeting.done():
            return again.result()
        won = meeting.result()
        return won
    finally:
        await end_racers([meeting, again], keep=won)


async def _meet(exchange: Exchange, theirs: list[Endpoint], greeting: Greeting) -> Won:
    known = [endpoint for endpoint in theirs if endpoint.port != HIDDEN_PORT]
    borrowed = exchange.borrow()
    socket = await _socket(exchange, borrowed)
    try:
        if theirs and not known:
            exchange.open_filter(socket, theirs[0].ip)
        begun = greeted(exchange.context, greeting)
        if borrowed:
            exchange.tell([borrowed.endpoint])
        else:
            await _show(exchange, socket, known[:1], begun)
    except BaseException:
        socket.close()
        raise
    follows = not borrowed and exchange.predicts  # the answer, on which the peer's filter opens
    begun = begun._replace(resend_s=_BEHIND_SIGNAL_S if follows else None)
    won = await exchange.context.prove_datagram(socket, known, begun=begun)
    exchange.standing.gets_out = exchange.standing.gets_out or borrowed is not None
    return won


async def _socket(exchange: Exchange, borrowed: Borrowed | None) -> DatagramSocket:
    context = exchange.context
    return context.guard(borrowed.socket) if borrowed else await context.network.open_udp(context.combo.af)


async def _show(exchange: Exchange, socket: DatagramSocket, likeliest: list[Endpoint], begun: Begun) -> None:
    """Say where a socket is that does not stand. A peer that lets everybody in has our proof before."""
    if exchange.ours is Kind.RANDOM:
        exchange.tell([])  # nobody can know
        return
    async with exchange.turns.answering:
        _send_proof(socket, likeliest, begun)
        latest = await exchange.reflexive(socket)
    exchange.tell(behind(latest, exchange.delta) if exchange.predicts else [latest])


def _send_proof(socket: DatagramSocket, targets: list[Endpoint], begun: Begun) -> None:
    for target in targets:
        for datagram in (begun.opener(), *begun.flight):
            socket.send_to(datagram, target)
