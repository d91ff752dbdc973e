"""Relayed transport addresses (RFC 8656): aioice's TURN client on sockets of the vantage.

What aioice leaves open is closed here: every task is owned, data of unbound peers is taken, and no wait is endless.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import hmac
import ssl
import time
from asyncio.trsock import TransportSocket
from collections import deque
from collections.abc import Coroutine, Sequence
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Any

from aioice import turn

from warpfleet.configs.fleet import TurnServer
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net import stun
from warpfleet.net.interfaces import ConnectRefused, Count, RelayRefused, Unreachable, uncounted
from warpfleet.net.racing import race
from warpfleet.net.readiness import segments_sent
from warpfleet.net.sockets import Inbox, connect
from warpfleet.net.vantage import Vantage

STAGGER_S = 0.3  # an allocation over UDP takes two round trips: most are done before TCP is tried beside it
LIFETIME_S = 600  # RFC 8656 section 3.2: the default of an allocation
PERMISSION_REFRESH_S = 240.0  # a permission lasts 300 s, and binding a channel renews it (RFC 8656 sections 9 and 12)
BIND_TIMEOUT_S = 5.0  # of a channel; four transmissions
FAREWELL_TIMEOUT_S = 1.0  # to delete an allocation: what is lost with it expires on the server by itself
WAITING_DATAGRAMS = 32  # for one peer while its channel is being bound
EPHEMERAL_LIFETIME_S = 86_400  # of a username made from the secret, as the TURN REST API draft recommends
FIRST_CHANNEL, LAST_CHANNEL = 0x4000, 0x4FFF  # RFC 8656 section 12
_IPV6_FAMILY = 0x02000000  # RFC 8656 section 18.6


class _Client(turn.TurnClientMixin):
    """What both of aioice's TURN protocols lack: Data indications, the relayed address's family, and the end."""

    family = 4

    def begin(self, af: int, inbox: Inbox) -> None:
        self.family = af
        self.receiver = _Receiver(inbox)
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def allocate(self) -> Endpoint:
        """Create the allocation, or raise what became of the transport meanwhile. `_farewell` ends what goes on."""
        self.allocating = asyncio.ensure_future(self.connect())
        ends: set[asyncio.Future[Any]] = {self.allocating, self.lost}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self.allocating.done():
            raise self.lost.result()
        return Endpoint(*self.allocating.result())

    async def request(self, request: stun.Message) -> tuple[stun.Message, tuple[str, int]]:
        if request.message_method == stun.Method.ALLOCATE and self.family == 6:
            request.attributes["REQUESTED-ADDRESS-FAMILY"] = _IPV6_FAMILY
        return await super().request(request)

    def datagram_received(self, data: bytes | str, addr: tuple[str, int]) -> None:
        assert isinstance(data, bytes)
        if len(data) >= 4 and turn.is_channel_data(data):
            super().datagram_received(data, addr)
            return
        message = stun.parse(data)
        if message is None:
            return
        if (message.message_method, message.message_class) != (stun.Method.DATA, stun.Class.INDICATION):
            super().datagram_received(data, addr)
        elif {"DATA", "XOR-PEER-ADDRESS"} <= message.attributes.keys() and self.receiver is not None:
            self.receiver.datagram_received(message.attributes["DATA"], message.attributes["XOR-PEER-ADDRESS"])

    def error_received(self, exc: Exception) -> None:
        self.end(ConnectRefused(f"{Endpoint(*self.server)} has no TURN server: {exc}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(Unreachable(f"the TURN server {Endpoint(*self.server)} hung up"))
        if self.receiver is not None:
            self.receiver.connection_lost(exc)

    def end(self, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(error)


class _UdpClient(_Client, turn.TurnClientUdpProtocol):
    packets_sent = 0

    def _send(self, data: bytes) -> None:
        super()._send(data)
        self.packets_sent += 1


class _TcpClient(_Client, turn.TurnClientTcpProtocol):
    _packets_sent: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket: TransportSocket = transport.get_extra_info("socket")

    @property
    def packets_sent(self) -> int | None:
        if self._socket.fileno() >= 0:  # a TLS transport has closed it before it says so
            self._packets_sent = segments_sent(self._socket)
        return self._packets_sent

    def end(self, error: Exception) -> None:
        self._packets_sent = self.packets_sent
        super().end(error)


class _PortInUse(RelayRefused):
    """Our port still belongs to an allocation that was just deleted: another one will do (RFC 8656 section 7.4)."""


class _Receiver(asyncio.DatagramProtocol):
    """Where aioice delivers what peers send."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._inbox.put(data, Endpoint(*addr))

    def connection_lost(self, exc: Exception | None) -> None:
        self._inbox.close()


class _Channel:
    """One peer's channel: its number, until when it needs no renewal, and the datagrams that wait for it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.fresh_until_s = 0.0
        self.waiting: deque[bytes] = deque(maxlen=WAITING_DATAGRAMS)
        self.binding: asyncio.Task[None] | None = None


class RelaySocket:
    """A relayed transport address that behaves like a UDP socket."""

    def __init__(self, client: _UdpClient | _TcpClient, local: Endpoint, inbox: Inbox, tasks: "_Tasks") -> None:
        self._client = client
        self._local = local
        self._inbox = inbox
        self._tasks = tasks
        self._channels: dict[Endpoint, _Channel] = {}
        self._permitted: set[str] = set()  # addresses that a channel is to follow to before their permission expires
        self._permitting: asyncio.Task[None] | None = None
        self._closed = False
        assert client.refresh_task is not None
        client.refresh_task.add_done_callback(self._refresh_ended)

    @property
    def local(self) -> Endpoint:
        """The relayed transport address."""
        return self._local

    @property
    def through(self) -> Endpoint:
        """The TURN server."""
        return Endpoint(*self._client.server)

    @property
    def packets_sent(self) -> int | None:
        """What the allocation has sent to its server: requests, renewals and data; TCP segments where that is TCP."""
        return self._client.packets_sent

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        """Send one datagram through the server, as soon as its peer is permitted or the channel to it is bound."""
        if self._inbox.closed:
            return
        channel = self._channels.get(remote)
        if channel is None:
            if FIRST_CHANNEL + len(self._channels) > LAST_CHANNEL:
                return
            channel = self._channels[remote] = _Channel(FIRST_CHANNEL + len(self._channels))
            self._client.channel_to_peer[channel.number] = remote
        if time.monotonic() < channel.fresh_until_s:
            self._transmit(channel, data)
            return
        if remote.ip in self._permitted and not channel.fresh_until_s:
            self._indicate(data, remote)
        else:
            channel.waiting.append(data)
        if channel.binding is None:
            channel.binding = self._tasks.start(self._bind(channel, remote))

    def permit(self, ip: str) -> None:
        """Let in what comes from an address of this socket's family, as soon as the server has heard of it."""
        self._permitting = self._tasks.start(self._permit(ip))

    async def receive(self) -> tuple[bytes, Endpoint]:
        """The next datagram and the peer it came from. ConnectionLost once the socket or its allocation is gone."""
        return await self._inbox.get()

    def close(self) -> None:
        """Close, and delete the allocation behind the scenes; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._inbox.close()
        bindings = [channel.binding for channel in self._channels.values()]
        for task in [*bindings, self._permitting]:
            if task is not None:
                task.cancel()
        self._tasks.start(_farewell(self._client))

    async def _bind(self, channel: _Channel, remote: Endpoint) -> None:
        """Bind the channel, or renew it, and send what waited; where the server refuses, that is lost."""
        try:
            async with asyncio.timeout(BIND_TIMEOUT_S):
                await self._client.channel_bind(channel.number, remote)
        except (stun.TransactionError, TimeoutError):
            channel.waiting.clear()
            return
        finally:
            channel.binding = None
        channel.fresh_until_s = time.monotonic() + PERMISSION_REFRESH_S
        while channel.waiting:
            self._transmit(channel, channel.waiting.popleft())

    async def _permit(self, ip: str) -> None:
        request = stun.Message(stun.Method.CREATE_PERMISSION, stun.Class.REQUEST)
        request.attributes["XOR-PEER-ADDRESS"] = (ip, 0)
        with contextlib.suppress(stun.TransactionError, TimeoutError):
            async with asyncio.timeout(BIND_TIMEOUT_S):
                await self._client.request_with_retry(request)
                self._permitted.add(ip)

    def _indicate(self, data: bytes, remote: Endpoint) -> None:
        indication = stun.Message(stun.Method.SEND, stun.Class.INDICATION)
        indication.attributes["XOR-PEER-ADDRESS"] = remote
        indication.attributes["DATA"] = data
        self._client._send(bytes(indication))

    def _transmit(self, channel: _Channel, data: bytes) -> None:
        self._client._send(channel.number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data)

    def _refresh_ended(self, task: "asyncio.Task[None]") -> None:
        """The allocation could not be renewed: it is gone, unless it was closed here."""
        if not task.cancelled() and task.exception() is not None:
            self.close()


class _Tasks:
    """The tasks that outlive the call that started them: channels being bound, allocations being deleted."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def finished(self) -> None:
        while self._running:
            await asyncio.wait(self._running)


class Relays:
    """The TURN servers of one vantage. `udp_blocked` says that those over UDP need not be tried."""

    def __init__(self, vantage: Vantage, servers: Sequence[TurnServer]) -> None:
        self.udp_blocked = False
        self._vantage = vantage
        self._servers = servers
        self._tasks = _Tasks()

    async def allocate(self, af: int, *, timeout_s: float, discard: Count = uncounted) -> RelaySocket:
        """A relayed transport address of family 4 or 6: servers over UDP first, over TCP beside them soon after.

        RelayRefused, ConnectRefused, Unreachable or TimeoutError. Unreachable, too, where there is no server.
        `discard` gets the allocations, and the connects for some, that were tried beside the one that is returned.
        """

        async def close(socket: RelaySocket) -> None:
            socket.close()
            discard(socket)

        servers = sorted(self._servers, key=lambda server: server.transport is Transport.TCP)
        ways = [
            functools.partial(self._allocate_at, server, af, discard)
            for server in servers
            if not (self.udp_blocked and server.transport is Transport.UDP)
        ]
        if not ways:
            raise Unreachable("the fleet has no TURN server that can be reached")
        return await race(ways, stagger_s=STAGGER_S, timeout_s=timeout_s, discard=close)

    async def close(self) -> None:
        """Wait until closed sockets have deleted their allocations, about a second at most."""
        await self._tasks.finished()

    async def _allocate_at(self, server: TurnServer, af: int, discard: Count) -> RelaySocket:
        refusal: Exception = Unreachable(f"{server.host} has no address")
        for remote in await self._vantage.resolve(server.host, server.port):
            try:
                return await self._allocate(server, remote, af, discard)
            except _PortInUse:
                return await self._allocate(server, remote, af, discard)
            except (ConnectRefused, Unreachable) as error:
                refusal = error
        raise refusal

    async def _allocate(self, server: TurnServer, remote: Endpoint, af: int, discard: Count) -> RelaySocket:
        inbox = Inbox()
        client = await self._client(server, remote, af, inbox, discard)
        try:
            local = await client.allocate()
        except BaseException as error:
            discard(client)
            self._tasks.start(_farewell(client))
            if isinstance(error, stun.TransactionFailed):
                kind = _PortInUse if "(437 " in str(error) else RelayRefused
                raise kind(f"the TURN server {remote} refused: {error}") from error
            if isinstance(error, (KeyError, ValueError)):
                raise RelayRefused(f"the TURN server {remote} answered with half a message: {error}") from error
            if isinstance(error, stun.TransactionTimeout):
                raise TimeoutError(f"the TURN server {remote} did not answer") from error
            raise
        return RelaySocket(client, local, inbox, self._tasks)

    async def _client(
        self, server: TurnServer, remote: Endpoint, af: int, inbox: Inbox, discard: Count
    ) -> _UdpClient | _TcpClient:
        """A client of the server whose transport is connected."""
        loop = asyncio.get_running_loop()
        username, password = credentials(server, time.time())
        client: _UdpClient | _TcpClient
        if server.transport is Transport.UDP:
            client = _UdpClient(remote, username, password, LIFETIME_S, LIFETIME_S)
            client.begin(af, inbox)
            opened = self._vantage.open(remote.af, SOCK_DGRAM)
            try:
                opened.connect(remote)
                await loop.create_datagram_endpoint(lambda: client, sock=opened)
            except OSError as error:
                opened.close()
                raise Unreachable(f"{remote}: {error.strerror}") from error
            return client
        client = _TcpClient(remote, username, password, LIFETIME_S, LIFETIME_S)
        client.begin(af, inbox)
        opened = self._vantage.open(remote.af, SOCK_STREAM)
        stream = await connect(opened, remote, timeout_s=BIND_TIMEOUT_S, discard=discard)
        opened = stream.detach()
        try:
            context = ssl.create_default_context() if server.tls else None
            await loop.create_connection(
                lambda: client, sock=opened, ssl=context, server_hostname=server.host if server.tls else None
            )
        except OSError as error:
            opened.close()
            discard(stream)
            raise Unreachable(f"{remote}: {error}") from error
        return client


def credentials(server: TurnServer, now_s: float) -> tuple[str | None, str | None]:
    """The username and password: the long-term ones, or ephemeral ones made from the secret (TURN REST API draft)."""
    if server.secret is None:
        return server.username, server.password.get_secret_value() if server.password is not None else None
    username = f"{int(now_s) + EPHEMERAL_LIFETIME_S}:{server.username or 'warpfleet'}"
    digest = hmac.new(server.secret.get_secret_value().encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()


async def _farewell(client: _UdpClient | _TcpClient) -> None:
    """Delete the allocation, and close the transport.

    A request that is under way is waited for: a server that gets the deletion first would allocate afterwards.
    """
    try:
        if client.integrity_key is not None and not client.lost.done():
            async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                await asyncio.wait({client.allocating})
                if client.relayed_address is not None:
                    await client.delete()
    except TimeoutError:
        pass
    finally:
        client.transport.close()
        leftovers = [task for task in (client.allocating, client.refresh_task) if task is not None]
        for task in leftovers:
            task.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)
