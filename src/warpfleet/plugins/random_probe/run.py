"""Random probe: many mappings where nobody can predict the ports, many probes from where the port is known."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from itertools import islice
from typing import Any

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Kind, Requirement, kind_of
from warpfleet.core.peer import ADDRESS_FAMILIES
from warpfleet.core.port_range import PortRange
from warpfleet.core.targets import permitted
from warpfleet.net.interfaces import DatagramSocket
from warpfleet.plugins.attempt_context import AttemptContext, Begun, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import AttemptFactory, Strategy
from warpfleet.plugins.greeting import Greeting, greet, greeted
from warpfleet.plugins.node_ports import NodePorts
from warpfleet.plugins.random_probe.messages import Answer, Offer
from warpfleet.plugins.random_probe.plan import ALLOWANCE, HELD_S, MAPPINGS_MAX, a_round_trip, ports, times_s
from warpfleet.plugins.registry import register
from warpfleet.plugins.standing import Standing
from warpfleet.plugins.volley import Volley

TheirWord = asyncio.Task[Offer | Answer]
"""What the peer says of where it is; the responder has it already."""

_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use


@register(phase=Phase.SPRAY)
class RandomProbe(Strategy):
    """One side of a random probe."""

    name = "random_probe"
    transport = Transport.UDP
    requirement = Requirement.GUESSABLE
    routes = (RouteType.EXT,)
    proto_messages = (Offer, Answer)
    allowance = ALLOWANCE

    def __init__(self, context: AttemptContext, standing: Mapping[int, Standing]) -> None:
        super().__init__(context)
        self._standing = standing[context.combo.af]
        self._greeting, self._begun = self._begin()

    @classmethod
    async def setup(cls, node: NodePorts) -> AttemptFactory:
        kinds = [Kind.PORT_FILTERED]
        standing = {af: Standing(node, af, node.advertise_standing, kinds) for af in ADDRESS_FAMILIES}
        for kept in standing.values():
            node.spawn(kept.keep())
            node.on_close(kept.close)
        return functools.partial(cls, standing=standing)

    def _begin(self) -> tuple[Greeting | None, Begun | None]:
        """What goes ahead by signal. Nothing where a pipe is to move here: it may be another process's, where a socket
        that serves all peers cannot go."""
        context, offer = self.context, self.context.opening
        if isinstance(offer, Offer):
            return None, greeted(context, offer.greeting) if offer.greeting else None
        return (None, None) if context.for_move else greet(context)

    async def run(self) -> Won:
        if kind_of(self.context.mine.behaviour(self.context.combo.af)) is Kind.RANDOM:
            return await self._open_mappings()
        return await self._probe()

    async def _open_mappings(self) -> Won:
        context = self.context
        address = context.mine.external.get(context.combo.af)
        if address is None:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server has told us our external address")
        block = context.mine.behaviour(context.combo.af).port_range
        # Before the peer begins to probe.
        async with context.room.take(MAPPINGS_MAX, context.peer.name), asyncio.timeout(HELD_S):
            volley = Volley(context, begun=self._ahead())
            told = self._exchange(address, None, block)
            return await self._meet(volley, told, lambda answer: self._send_from_each(volley, answer, block))

    async def _probe(self) -> Won:
        socket, external = await self._known_socket()
        volley = Volley(self.context, [socket], begun=self._ahead())
        told = self._exchange(external.ip, external.port, None)
        return await self._meet(volley, told, lambda answer: self._send_to_each(socket, answer))

    async def _meet(
        self,
        volley: Volley,
        told: Coroutine[Any, Any, Offer | Answer],
        send: Callable[[TheirWord], Coroutine[Any, Any, None]],
    ) -> Won:
        """Send until the peer is heard. The packets of a round trip go while its answer is on its way, where its record
        says what that is going to say; the answer, which has the tunnel's flight, is waited for in any case."""
        answer = asyncio.create_task(told)
        try:
            return await volley.prove(send(answer), behind=answer)
        finally:
            answer.cancel()

    async def _send_from_each(self, volley: Volley, answer: TheirWord, block: PortRange | None) -> None:
        """One frame from each of many sockets: the mappings are there, and outlive the attempt."""
        opener, expected = self._opener(), self._expected_endpoint()
        sockets: list[DatagramSocket] = []
        async for _ in self._turns(block, 0, a_round_trip(block) if expected else 0):
            if answer.done() or expected is None:
                break
            sockets.append(await self._open(volley))
            sockets[-1].send_to(opener, expected)
        theirs = await answer
        if theirs.port is None:
            raise AttemptFailed(Reason.NAT_RULES_OUT, "neither side has a port that stays")
        remote = Endpoint(theirs.address, theirs.port)
        async for turn in self._turns(block, len(sockets) if remote == expected else 0, MAPPINGS_MAX):
            socket = sockets[turn] if turn < len(sockets) else await self._open(volley)
            socket.send_to(opener, remote)

    async def _send_to_each(self, socket: DatagramSocket, answer: TheirWord) -> None:
        """One frame to each of many ports. One that comes before the mapping is there opens our own filter for it, so
        that it may still be a hit when they are over."""
        opener, expected, rng = self._opener(), self._expected_mappings(), self.context.rng
        address, block = expected or ("", None)
        order, sent = ports(rng, block), 0
        async for turn in self._turns(block, 0, a_round_trip(block) if expected else 0):
            if answer.done():
                break
            socket.send_to(opener, Endpoint(address, order[turn]))
            sent += 1
        theirs = await answer
        if theirs.port is not None:
            raise AttemptFailed(Reason.NAT_RULES_OUT, "neither side has ports to guess")
        if expected != (theirs.address, theirs.block):
            order, sent = ports(rng, theirs.block), 0
        async for turn in self._turns(theirs.block, sent, len(order)):
            socket.send_to(opener, Endpoint(theirs.address, order[turn]))

    def _expected_endpoint(self) -> Endpoint | None:
        """Where the responder will probe from, if its socket stands."""
        combo, theirs = self.context.combo, self.context.theirs
        endpoint = theirs.standing_endpoint(combo.plugin, combo.af) if theirs and self._begun else None
        return endpoint if endpoint and permitted(endpoint.ip, combo.route) else None

    def _expected_mappings(self) -> tuple[str, PortRange | None] | None:
        """At which address the responder will open mappings, and in which block of ports."""
        combo, theirs = self.context.combo, self.context.theirs
        address = theirs.external.get(combo.af) if theirs and self._begun else None
        if theirs is None or address is None or not permitted(address, combo.route):
            return None
        behaviour = theirs.behaviour(combo.af)
        return (address, behaviour.port_range) if kind_of(behaviour) is Kind.RANDOM else None

    async def _open(self, volley: Volley) -> DatagramSocket:
        socket = await self.context.network.open_udp(self.context.combo.af)
        volley.add(socket)
        return socket

    async def _turns(self, block: PortRange | None, first: int, end: int) -> AsyncIterator[int]:
        """The turns from the first one on, each when its time has come, which is now for that one."""
        loop = asyncio.get_running_loop()
        rtt_ms = self.context.rtt_ms
        times = list(islice(times_s(block, rtt_ms / 1000 if rtt_ms else None), first, end))
        began_s = loop.time()
        for turn, at_s in enumerate(times, first):
            await asyncio.sleep(began_s + at_s - times[0] - loop.time())
            yield turn

    def _opener(self) -> bytes:
        return (self._begun or Begun(self.context.handshake(), self.context.tunnel())).opener()

    def _ahead(self) -> Begun | None:
        """What has begun; all of it has gone by signal, and need not on the path."""
        return self._begun._replace(flight=()) if self._begun else None

    async def _known_socket(self) -> tuple[DatagramSocket, Endpoint]:
        """A socket whose endpoint is known: one that stands, or else one that has asked."""
        context = self.context
        if self._begun and (borrowed := self._standing.lend(context.attempt_id)):
            return context.guard(borrowed.socket), borrowed.endpoint
        socket = await context.network.open_udp(context.combo.af)
        try:
            return socket, await context.network.external_endpoint(socket, timeout_s=_STUN_S)
        except BaseException as error:
            socket.close()
            if isinstance(error, TimeoutError):
                raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error
            raise

    async def _exchange(self, address: str, port: int | None, block: PortRange | None) -> Offer | Answer:
        """Tell the peer our external address, and what ports to expect, and hear the same."""
        context = self.context
        if context.side is Side.INITIATOR:
            context.send(Offer, address=address, port=port, block=block, greeting=self._greeting)
            answer = await context.inbox.message(Answer)
            if self._begun:
                for datagram in answer.flight:
                    self._begun.tunnel.receive(datagram, asyncio.get_running_loop().time())
            return answer
        assert isinstance(context.opening, Offer)
        flight = tuple(self._begun.flight) if self._begun else ()
        context.send(Answer, address=address, port=port, block=block, flight=flight)
        return context.opening
