"""Random probe: many mappings where nobody can predict the ports, many probes from where the port is known."""

import asyncio
from dataclasses import replace

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Kind, Requirement, kind_of
from warpfleet.core.targets import USUAL_ALLOWANCE
from warpfleet.net.interfaces import DatagramSocket, Pipe
from warpfleet.plugins.contract import AttemptFailed, Strategy
from warpfleet.plugins.random_probe.messages import Answer, Offer
from warpfleet.plugins.random_probe.plan import MAPPINGS, ROUND_PROBES, ROUND_S, rounds
from warpfleet.plugins.registry import register
from warpfleet.plugins.volley import close_all, open_sockets, prove_first_heard

_STUN_S = 3.0  # a server that has not answered three retransmissions will not be of use


@register(phase=Phase.SPRAY)
class RandomProbe(Strategy):
    """One side of a random probe."""

    name = "random_probe"
    transport = Transport.UDP
    requirement = Requirement.GUESSABLE
    routes = (RouteType.EXT,)
    proto_messages = (Offer, Answer)
    allowance = replace(USUAL_ALLOWANCE, packets_per_s=ROUND_PROBES / ROUND_S)  # a round fits into the usual burst

    async def run(self) -> Pipe:
        if kind_of(self.context.mine.behaviour(self.context.combo.af)) is Kind.RANDOM:
            return await self._open_mappings()
        return await self._probe()

    async def _open_mappings(self) -> Pipe:
        context = self.context
        address = context.mine.external.get(context.combo.af)
        if address is None:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server has told us our external address")
        theirs = await self._exchange(address, None)
        if theirs.port is None:
            raise AttemptFailed(Reason.NAT_RULES_OUT, "neither side has a port that stays")
        remote = Endpoint(theirs.address, theirs.port)
        sockets = await open_sockets(context.network, context.combo.af, MAPPINGS)
        try:
            opener = context.handshake().opener()
            for socket in sockets:
                socket.send_to(opener, remote)
        except BaseException:
            close_all(sockets)
            raise
        return await prove_first_heard(context, sockets)  # the mappings are there, and outlive the attempt

    async def _probe(self) -> Pipe:
        context = self.context
        socket = await context.network.open_udp(context.combo.af)
        try:
            external = await self._reflexive(socket)
            theirs = await self._exchange(external.ip, external.port)
            if theirs.port is not None:
                raise AttemptFailed(Reason.NAT_RULES_OUT, "neither side has ports to guess")
        except BaseException:
            socket.close()
            raise
        return await prove_first_heard(context, [socket], self._send_rounds(socket, theirs.address))

    async def _send_rounds(self, socket: DatagramSocket, address: str) -> None:
        """Probe the ports of all rounds. A probe that comes before the mapping is there opens our own filter for it, so
        that it may still be a hit when they are over."""
        opener = self.context.handshake().opener()
        for ports in rounds(self.context.rng):
            for port in ports:
                socket.send_to(opener, Endpoint(address, port))
            await asyncio.sleep(ROUND_S)

    async def _reflexive(self, socket: DatagramSocket) -> Endpoint:
        try:
            return await self.context.network.external_endpoint(socket, timeout_s=_STUN_S)
        except TimeoutError as error:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over UDP") from error

    async def _exchange(self, address: str, port: int | None) -> Offer | Answer:
        """Tell the peer our external address, and hear its."""
        context = self.context
        if context.side is Side.INITIATOR:
            context.send(Offer, address=address, port=port)
            return await context.inbox.message(Answer)
        assert isinstance(context.opening, Offer)
        context.send(Answer, address=address, port=port)
        return context.opening
