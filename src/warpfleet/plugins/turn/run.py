"""Relay: one side allocates a relayed transport address, the other sends to it from a plain socket, or from an
allocation of its own where UDP does not get out."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from warpfleet.core.combo import Phase, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.net.interfaces import ConnectRefused, DatagramSocket, Relay, RelayRefused, Unreachable
from warpfleet.plugins.attempt_context import Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.racers import end_racers
from warpfleet.plugins.registry import register
from warpfleet.plugins.turn.messages import RelayAnswer, RelayOffer

# Three round trips over TCP, on a slow path, with one retransmission.
_ALLOCATE_S = 5.0
# Whoever is heard is named within a round trip over the relay: twice a late signal.
_UNHEARD_S = 2.0


@register(phase=Phase.RELAY)
class Turn(Strategy):
    """One side of a relayed path."""

    name = "turn"
    transport = Transport.UDP
    requirement = Requirement.RELAY
    routes = (RouteType.EXT,)
    proto_messages = (RelayOffer, RelayAnswer)

    async def run(self) -> Won:
        if self.context.side is Side.INITIATOR:
            return await self._initiate()
        return await self._respond()

    async def _initiate(self) -> Won:
        context = self.context
        assert context.theirs is not None
        hello = context.handshake().opener().hex()
        if context.theirs.udp_blocked:
            context.send(RelayOffer, relayed=None, hello=hello)  # so that both allocate at the same time
        socket = await self._allocate()
        self._permit_peer(socket)
        try:
            context.send(RelayOffer, relayed=str(socket.local), hello=hello)
            answer = await context.inbox.message(RelayAnswer)
        except BaseException:
            socket.close()
            raise
        first = Endpoint.parse(answer.endpoint)
        return await context.prove_datagram(socket, [first], relayed=True, later=self._other_endpoint())

    async def _other_endpoint(self) -> list[Endpoint]:
        """Of a responder that is not heard from where it said first."""
        return [Endpoint.parse((await self.context.inbox.message(RelayAnswer)).endpoint)]

    async def _respond(self) -> Won:
        context, offer = self.context, self.context.opening
        assert isinstance(offer, RelayOffer)
        blocked = context.mine.udp_blocked
        socket = await (self._allocate() if blocked else context.network.open_udp(context.combo.af))
        try:
            source = socket.local if blocked else self._external(socket)
            while offer.relayed is None:
                offer = await context.inbox.message(RelayOffer)
            context.send(RelayAnswer, endpoint=str(source))
        except BaseException:
            socket.close()
            raise
        proving = self._prove(socket, offer)
        return await (proving if blocked else self._or_from_a_relay(socket, proving, offer))

    def _prove(self, socket: DatagramSocket, offer: RelayOffer) -> Coroutine[Any, Any, Won]:
        relayed, hello = Endpoint.parse(offer.relayed or ""), bytes.fromhex(offer.hello)
        return self.context.prove_datagram(socket, [relayed], first=[(hello, relayed)], relayed=True)

    async def _or_from_a_relay(
        self, socket: DatagramSocket, proving: Coroutine[Any, Any, Won], offer: RelayOffer
    ) -> Won:
        """From the plain socket, or, where that goes unheard, from an allocation: a NAT with several addresses, that
        pools them arbitrarily (RFC 4787 section 4.1), sends from one that nobody has permitted."""
        plainly = asyncio.create_task(proving)
        ways: dict[asyncio.Task[Won], DatagramSocket] = {plainly: socket}
        won: Won | None = None
        try:
            await asyncio.wait(ways, timeout=_UNHEARD_S)
            relay = None if plainly.done() else await self._relay_if_any()
            if relay is not None:
                self.context.send(RelayAnswer, endpoint=str(relay.local))
                ways[asyncio.create_task(self._prove(relay, offer))] = relay
            won = await self._first(ways)
            return won
        finally:
            await end_racers(list(ways), keep=won)

    @staticmethod
    async def _first(ways: Mapping[asyncio.Task[Won], DatagramSocket]) -> Won:
        """What the first way that leads there has won. The peer may be at the end of another, whose answers are lost:
        each stays open until then, and is closed without a word, which the peer would take for all of them."""
        pending = set(ways)
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            led_there = [task for task in done if task.exception() is None]
            if led_there or not pending:
                for other in pending:
                    ways[other].close()
                return (led_there or list(done))[0].result()

    async def _relay_if_any(self) -> Relay | None:
        try:
            return await self._allocate()
        except AttemptFailed:
            return None

    def _external(self, socket: DatagramSocket) -> Endpoint:
        """Where we seem to send from. The address is what counts, a permission is for all its ports (RFC 8656 section
        9); the port is right where the NAT preserves it, and else shows itself with our first frame."""
        external = self.context.mine.external.get(self.context.combo.af)
        if external is None:
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server has told us our external address")
        return Endpoint(external, socket.local.port)

    def _permit_peer(self, relay: Relay) -> None:
        """Let the peer's first frame in, which may come before its answer does. It comes from the address that its
        record has, or, where UDP does not get out there, from a relay: mostly of the same server."""
        theirs = self.context.theirs
        assert theirs is not None
        if address := relay.local.ip if theirs.udp_blocked else theirs.external.get(self.context.combo.af):
            relay.permit(address)

    async def _allocate(self) -> Relay:
        try:
            return await self.context.network.allocate_relay(self.context.combo.af, timeout_s=_ALLOCATE_S)
        except RelayRefused as error:
            raise AttemptFailed(Reason.RELAY_REFUSED, str(error)) from error
        except (TimeoutError, ConnectRefused, Unreachable) as error:
            raise AttemptFailed(Reason.RELAY_UNREACHABLE, f"no TURN server answered: {error}") from error
