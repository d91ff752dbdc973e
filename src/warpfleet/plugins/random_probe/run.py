"""Random probe: many mappings where nobody can predict the ports, many probes from where the port is known."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Kind, Requirement, kind_of
from warpfleet.core.port_range import PortRange
from warpfleet.net.interfaces import DatagramSocket
from warpfleet.plugins.attempt_context import Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.random_probe.messages import Answer, Offer
from warpfleet.plugins.random_probe.plan import ALLOWANCE, HELD_S, MAPPINGS_MAX, ports, times_s
from warpfleet.plugins.registry import register
from warpfleet.plugins.volley import Volley

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
            theirs = await self._exchange(address, None, block)
            if theirs.port is None:
                raise AttemptFailed(Reason.NAT_RULES_OUT, "neither side has a port that stays")
            volley = Volley(context)
            heard = await volley.first_heard(self._send_from_each(volley, Endpoint(theirs.address, theirs.port), block))
        return await volley.proved(heard)

    async def _send_from_each(self, volley: Volley, remote: Endpoint, block: PortRange | None) -> None:
        """One frame from each of many sockets: the mappings are there, and outlive the attempt."""
        context = self.context
        opener = context.handshake().opener()
        async for _ in self._turns(block, MAPPINGS_MAX):
            socket = await context.network.open_udp(context.combo.af)
            volley.add(socket)
            socket.send_to(opener, remote)

    async def _probe(self) -> Won:
        context = self.context
        socket = await context.network.open_udp(context.combo.af)
        try:
            external = await self._reflexive(socket)
            theirs = await self._exchange(external.ip, external.port, None)
            if theirs.port is not None:
                raise AttemptFailed(Reason.NAT_RULES_OUT, "neither side has ports to guess")
        except BaseException:
            socket.close()
            raise
        return await Volley(context, [socket]).prove(self._send_to_each(socket, theirs.address, theirs.block))

    async def _send_to_each(self, socket: DatagramSocket, address: str, block: PortRange | None) -> None:
        """One frame to each of many ports. One that comes before the mapping is there opens our own filter for it, so
        that it may still be a hit when they are over."""
        opener = self.context.handshake().opener()
        order = ports(self.context.rng, block)
        async for turn in self._turns(block, len(order)):
            socket.send_to(opener, Endpoint(address, order[turn]))

    async def _turns(self, block: PortRange | None, count: int) -> AsyncIterator[int]:
        """The first so many turns, each when its time has come."""
        loop = asyncio.get_running_loop()
        rtt_ms = self.context.rtt_ms
        began_s = loop.time()
        for turn, at_s in enumerate(islice(times_s(block, rtt_ms / 1000 if rtt_ms else None), count)):
            await asyncio.sleep(began_s + at_s - loop.time())
            yield turn

    async def _reflexive(self, socket: DatagramSocket) -> Endpoint:
        try:
            return await self.context.network.external_endpoint(socket, timeout_s=_STUN_S)
        except TimeoutError as error:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error

    async def _exchange(self, address: str, port: int | None, block: PortRange | None) -> Offer | Answer:
        """Tell the peer our external address, and what ports to expect, and hear the same."""
        context = self.context
        if context.side is Side.INITIATOR:
            context.send(Offer, address=address, port=port, block=block)
            return await context.inbox.message(Answer)
        assert isinstance(context.opening, Offer)
        context.send(Answer, address=address, port=port, block=block)
        return context.opening
