"""A small STUN responder (RFC 8489) with RFC 5780's alternate address, for fleets that name no server."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Self

from warpfleet.core.endpoint import Endpoint
from warpfleet.net import stun
from warpfleet.net.interfaces import ByteStream, ConnectionLost, DatagramSocket, Listener
from warpfleet.net.sockets import TcpListener, UdpSocket
from warpfleet.net.vantage import Vantage

LOOPBACK_ADDRESSES = ("127.0.0.1", "127.0.0.2")
PORT_TRIES = 16  # a port must be free at both addresses, and for TCP as well
IDLE_TIMEOUT_S = 10.0  # of a client over TCP
MAX_CLIENTS = 256  # over TCP at a time


class StunServer:
    """Answers binding requests at each address over UDP and TCP; `endpoints` is what a fleet file would list.

    With two addresses it has a second port, too, and honours CHANGE-REQUEST (RFC 5780 section 7.2). It is bound to
    loopback unless told otherwise.
    """

    def __init__(self, grid: Sequence[Sequence[DatagramSocket]], listeners: Sequence[Listener]) -> None:
        self.endpoints = tuple(row[0].local for row in grid)
        self._grid = grid
        self._listeners = listeners
        self._clients: set[asyncio.Task[None]] = set()
        self._tasks = [
            asyncio.create_task(self._serve_udp(row, column))
            for row in range(len(grid))
            for column in range(len(grid[0]))
        ] + [asyncio.create_task(self._serve_tcp(row)) for row in range(len(listeners))]

    @classmethod
    async def start(cls, addresses: Sequence[str] = LOOPBACK_ADDRESSES) -> Self:
        """Bind and serve, at one address or two. OSError where no port is free, MissingError without the address."""
        for _ in range(PORT_TRIES - 1):
            try:
                return cls(*_bound(addresses))
            except OSError:
                continue
        return cls(*_bound(addresses))

    async def close(self) -> None:
        """Stop serving; idempotent."""
        tasks = [*self._tasks, *self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        for socket in (socket for row in self._grid for socket in row):
            socket.close()

    async def _serve_udp(self, row: int, column: int) -> None:
        socket = self._grid[row][column]
        while True:
            data, source = await socket.receive()
            request = _request_in(data)
            if request is None:
                continue
            change = request.attributes.get("CHANGE-REQUEST", 0) if len(self._grid) == 2 else 0
            origin = self._grid[row ^ bool(change & stun.CHANGE_IP)][column ^ bool(change & stun.CHANGE_PORT)]
            origin.send_to(self._response(request, source, origin.local, row, column), source)

    async def _serve_tcp(self, row: int) -> None:
        while True:
            stream = await self._listeners[row].accept()
            if len(self._clients) >= MAX_CLIENTS:
                stream.close()
                continue
            client = asyncio.create_task(self._serve_client(stream, row))
            self._clients.add(client)
            client.add_done_callback(self._clients.discard)

    async def _serve_client(self, stream: ByteStream, row: int) -> None:
        try:
            while True:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    request = _request_in(await stun.read_message(stream))
                    if request is None:
                        return
                    await stream.write(self._response(request, stream.remote, stream.local, row, 0))
        except (ConnectionLost, TimeoutError):
            return
        finally:
            stream.close()

    def _response(self, request: stun.Message, source: Endpoint, origin: Endpoint, row: int, column: int) -> bytes:
        response = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
        response.attributes["XOR-MAPPED-ADDRESS"] = source
        response.attributes["RESPONSE-ORIGIN"] = origin
        if len(self._grid) == 2:
            response.attributes["OTHER-ADDRESS"] = self._grid[1 - row][1 - column].local
        return bytes(response)


def _request_in(data: bytes) -> stun.Message | None:
    """The binding request in some bytes, if that is what they are."""
    message = stun.parse(data)
    binding = (stun.Method.BINDING, stun.Class.REQUEST)
    return message if message is not None and (message.message_method, message.message_class) == binding else None


def _bound(addresses: Sequence[str]) -> tuple[list[list[UdpSocket]], list[TcpListener]]:
    """A row of UDP sockets for each address, and a TCP listener beside the first of each row."""
    ports = [0] * len(addresses)
    grid: list[list[UdpSocket]] = []
    listeners: list[TcpListener] = []
    with ExitStack() as undo:
        for ip in addresses:
            vantage, af = Vantage(address=ip), Endpoint(ip, 0).af
            grid.append([])
            for column, port in enumerate(ports):
                socket = UdpSocket(vantage.open(af, SOCK_DGRAM, port=port))
                undo.callback(socket.close)
                grid[-1].append(socket)
                ports[column] = socket.local.port
            listeners.append(TcpListener(vantage.open(af, SOCK_STREAM, port=ports[0])))
            undo.callback(listeners[-1].close)
        undo.pop_all()
    return grid, listeners
