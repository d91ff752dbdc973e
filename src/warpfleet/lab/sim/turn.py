"""TURN on the simulated network (RFC 8656): the server's side, and a relayed transport address as a client has it.

Messages are real ones, though nobody's password is looked at: the server's challenge is there for its round trip. Data
goes in indications rather than in channels.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.lab.sim.host import Host, SimUdpSocket
from warpfleet.lab.sim.streams import SimListener, SimStream
from warpfleet.net import stun
from warpfleet.net.interfaces import ConnectionLost, Count, RelayRefused, uncounted
from warpfleet.net.sockets import Inbox
from warpfleet.net.stun import Class, Message, Method, Transactions

_LIFETIME_S = 600  # section 3.2: the default of an allocation
_PERMISSION_TIMEOUT_S = 5.0  # until a permission is there; four transmissions
_UNAUTHORIZED, _MISMATCH = (401, "Unauthorized"), (437, "Allocation Mismatch")  # section 18 of RFC 8489, section 19
_IPV6_FAMILY = 0x02000000  # section 18.6
_UDP = 0x11000000  # section 18.7


@dataclass(slots=True)
class _Allocation:
    relay: SimUdpSocket
    expiry: asyncio.TimerHandle
    permitted: set[str] = field(default_factory=set)  # addresses of peers (section 9)


_Client = tuple[Transport, Endpoint]  # as the server sees it


class TurnServer:
    """Allocates relayed transport addresses on the addresses of its host, by their family."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._allocations: dict[_Client, _Allocation] = {}

    def share(self, socket: SimUdpSocket) -> None:
        """Answer what arrives over UDP at a STUN server's socket and is no binding request."""

        def take(data: bytes, source: Endpoint) -> bool:
            message = stun.parse(data)
            if message is None or message.message_method == Method.BINDING:
                return False
            self._handle(message, (Transport.UDP, source), lambda answer: socket.send_to(bytes(answer), source))
            return True

        socket.tap(take)

    async def serve(self, listener: SimListener) -> None:
        """Serve clients over TCP for ever."""
        async with asyncio.TaskGroup() as clients:
            while True:
                clients.create_task(self._serve_client(await listener.accept()))

    async def _serve_client(self, stream: SimStream) -> None:
        client = Transport.TCP, stream.remote
        try:
            while True:
                if message := stun.parse(await stun.read_message(stream)):
                    self._handle(message, client, lambda answer: stream.transmit(bytes(answer)))
        except ConnectionLost:
            self._free(client)
        finally:
            stream.close()

    def _handle(self, request: Message, client: _Client, reply: Callable[[Message], None]) -> None:
        allocation = self._allocations.get(client)
        peer = stun.endpoint_in(request, "XOR-PEER-ADDRESS")
        if request.message_method == Method.ALLOCATE:
            reply(self._allocated(request, client, reply))
        elif allocation is None:
            reply(_refusal(request, _MISMATCH))
        elif request.message_method == Method.SEND and peer and peer.ip in allocation.permitted:
            allocation.relay.send_to(request.attributes["DATA"], peer)
        elif request.message_method == Method.CREATE_PERMISSION and peer:
            allocation.permitted.add(peer.ip)
            reply(_response(request))
        elif request.message_method == Method.REFRESH:  # no client asks for more time: it only deletes
            self._free(client)

    def _allocated(self, request: Message, client: _Client, reply: Callable[[Message], None]) -> Message:
        if "NONCE" not in request.attributes:
            refusal = _refusal(request, _UNAUTHORIZED)
            refusal.attributes["NONCE"] = b"nonce"
            return refusal
        if client not in self._allocations:
            af = 6 if request.attributes.get("REQUESTED-ADDRESS-FAMILY") == _IPV6_FAMILY else 4
            relay = self._host.open_udp(Endpoint(self._host.address(af), 0))
            expiry = asyncio.get_running_loop().call_later(_LIFETIME_S, self._free, client)
            allocation = self._allocations[client] = _Allocation(relay, expiry)
            relay.tap(lambda data, peer: _forward(allocation, data, peer, reply))
        response = _response(request)
        response.attributes["XOR-RELAYED-ADDRESS"] = self._allocations[client].relay.local
        response.attributes["LIFETIME"] = _LIFETIME_S
        return response

    def _free(self, client: _Client) -> None:
        if allocation := self._allocations.pop(client, None):
            allocation.expiry.cancel()
            allocation.relay.close()


def _forward(allocation: _Allocation, data: bytes, peer: Endpoint, reply: Callable[[Message], None]) -> bool:
    if peer.ip in allocation.permitted:
        indication = Message(Method.DATA, Class.INDICATION)
        indication.attributes["XOR-PEER-ADDRESS"] = peer
        indication.attributes["DATA"] = data
        reply(indication)
    return True


def _response(request: Message) -> Message:
    return Message(request.message_method, Class.RESPONSE, request.transaction_id)


def _refusal(request: Message, error: tuple[int, str]) -> Message:
    refusal = Message(request.message_method, Class.ERROR, request.transaction_id)
    refusal.attributes["ERROR-CODE"] = error
    return refusal


class SimRelay:
    """A relayed transport address that behaves like a UDP socket. It is made by `over_udp` or `over_tcp`."""

    def __init__(
        self, server: Endpoint, transport: SimUdpSocket | SimStream, send: Callable[[bytes, Endpoint], None]
    ) -> None:
        self._server = server
        self._transport = transport
        self._send = send
        self._transactions = Transactions(send)
        self._inbox = Inbox()
        self._local = Endpoint("", 0)
        self._permitting: dict[str, asyncio.Task[None]] = {}

    @classmethod
    async def over_udp(
        cls, host: Host, server: Endpoint, af: int, *, timeout_s: float, discard: Count = uncounted
    ) -> "SimRelay":
        """An allocation over UDP. RelayRefused or TimeoutError; `discard` gets one that failed."""
        socket = host.open_udp(Endpoint(host.address(server.af), 0))
        relay = cls(server, socket, socket.send_to)
        socket.tap(relay._take)
        return await relay._allocated(af, timeout_s, discard)

    @classmethod
    async def over_tcp(
        cls, host: Host, server: Endpoint, af: int, *, timeout_s: float, discard: Count = uncounted
    ) -> "SimRelay":
        """An allocation over TCP. RelayRefused, ConnectRefused, Unreachable or TimeoutError; `discard` as above."""
        stream = await host.tcp.connect(server, timeout_s=timeout_s, discard=discard)
        relay = cls(server, stream, lambda data, _: stream.transmit(data))
        reading = asyncio.create_task(relay._read(stream))
        reading.add_done_callback(lambda _: relay.close())
        return await relay._allocated(af, timeout_s, discard)

    @property
    def local(self) -> Endpoint:
        """The relayed transport address."""
        return self._local

    @property
    def through(self) -> Endpoint:
        """The TURN server."""
        return self._server

    @property
    def packets_sent(self) -> int:
        """How many packets went to the server."""
        return self._transport.packets_sent

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram through the server, as soon as its peer is permitted."""
        if self._inbox.closed:
            return
        self.permit(remote.ip)
        permitting = self._permitting[remote.ip]
        if permitting.done():
            self._pass_on(data, remote)
        else:
            permitting.add_done_callback(lambda _: self._pass_on(data, remote))

    def permit(self, ip: str) -> None:
        """Let in what comes from an address, as soon as the server has heard of it."""
        if ip not in self._permitting:
            self._permitting[ip] = asyncio.create_task(self._permit(Endpoint(ip, 0)))

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram and the peer it came from. ConnectionLost once the socket is closed."""
        return await self._inbox.get()

    def close(self) -> None:
        """Delete the allocation and close; idempotent."""
        if self._inbox.closed:
            return
        self._inbox.close()
        for permitting in self._permitting.values():
            permitting.cancel()
        deletion = Message(Method.REFRESH, Class.REQUEST)
        deletion.attributes["LIFETIME"] = 0
        self._send(bytes(deletion), self._server)
        self._transport.close()

    async def _allocated(self, af: int, timeout_s: float, discard: Count) -> "SimRelay":
        try:
            challenge = await self._ask(_allocation_request(af), timeout_s)
            request = _allocation_request(af)
            request.attributes["NONCE"] = challenge.attributes["NONCE"]
            answer = await self._ask(request, timeout_s)
            relayed = stun.endpoint_in(answer, "XOR-RELAYED-ADDRESS")
            if relayed is None:
                raise RelayRefused(f"the TURN server {self._server} refused: {answer.attributes['ERROR-CODE']}")
            self._local = relayed
        except BaseException:
            self.close()
            discard(self)
            raise
        return self

    async def _ask(self, request: Message, timeout_s: float) -> Message:
        times_s = list(stun.send_times_s(timeout_s)) if isinstance(self._transport, SimUdpSocket) else [0.0]
        answer, _ = await self._transactions.exchange(request, self._server, times_s=times_s, timeout_s=timeout_s)
        return answer

    async def _permit(self, remote: Endpoint) -> None:
        request = Message(Method.CREATE_PERMISSION, Class.REQUEST)
        request.attributes["XOR-PEER-ADDRESS"] = remote
        try:
            await self._ask(request, _PERMISSION_TIMEOUT_S)
        except TimeoutError:
            self._permitting.pop(remote.ip, None)

    def _pass_on(self, data: bytes, remote: Endpoint) -> None:
        if self._inbox.closed:
            return
        indication = Message(Method.SEND, Class.INDICATION)
        indication.attributes["XOR-PEER-ADDRESS"] = remote
        indication.attributes["DATA"] = data
        self._send(bytes(indication), self._server)

    async def _read(self, stream: SimStream) -> None:
        try:
            while True:
                self._take(await stun.read_message(stream), stream.remote)
        except ConnectionLost:
            return

    def _take(self, data: bytes, source: Endpoint) -> bool:
        message = stun.parse(data)
        peer = stun.endpoint_in(message, "XOR-PEER-ADDRESS") if message else None
        if message and peer and message.message_method == Method.DATA:
            self._inbox.put(message.attributes["DATA"], peer)
        else:
            self._transactions.feed(data, source)
        return True


def _allocation_request(af: int) -> Message:
    request = Message(Method.ALLOCATE, Class.REQUEST)
    request.attributes["REQUESTED-TRANSPORT"] = _UDP
    if af == 6:
        request.attributes["REQUESTED-ADDRESS-FAMILY"] = _IPV6_FAMILY
    return request
