"""The pipe against what it is made of, on loopback in one process: Python's own ssl stream, aioquic's, and a socket.

python -m bench.loopback
"""

import asyncio
import secrets
import socket
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from warpfleet.core.combo import Combo, RouteType, Side
from warpfleet.core.identity import Identity
from warpfleet.net.certificate import certificate_of
from warpfleet.net.handshake import Handshake
from warpfleet.net.plain import PlainPipe
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.quic_engine import QuicEngine
from warpfleet.net.sockets import TcpStream, UdpSocket
from warpfleet.net.tls import TlsPipe, Tunnel, client_context, server_context

HOME = "127.0.0.1"
TURNS = 9  # of each contender, one after another: what else the machine does meets all of them
ROUNDS = 500
CHUNK_BYTES = 262_144
STREAM_BYTES, DATAGRAM_BYTES, PLAIN_BYTES = 256 * 2**20, 16 * 2**20, 2**30  # about a second of each
ATTEMPT_ID = "a0" * 16
ALICE, BOB = (Identity.generate(name, secrets.token_bytes(32)) for name in ("alice", "bob"))


class End(Protocol):
    """One end of what is measured."""

    async def send(self, data: bytes) -> None: ...

    async def send_eof(self) -> None: ...

    async def recv(self, max_bytes: int = ...) -> bytes: ...


Pair = tuple[End, End]


class _Streams:
    """asyncio's streams, as an end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_eof(self) -> None:
        """TLS over asyncio cannot end one direction alone."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        else:
            self._writer.close()

    async def recv(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        return await self._reader.read(max_bytes)


class _Bare:
    """A socket and asyncio, with nothing in between."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def send_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def recv(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        return await self._loop.sock_recv(self._socket, max_bytes)


@asynccontextmanager
async def tls_pipe() -> AsyncIterator[Pair]:
    """Our pipe over TCP."""
    alice, bob = _proved()
    near, far = (TcpStream(each) for each in _tcp_pair())
    pipes = await asyncio.gather(
        TlsPipe.open(near, Tunnel(Side.INITIATOR, ALICE), alice), TlsPipe.open(far, Tunnel(Side.RESPONDER, BOB), bob)
    )
    async with pipes[0], pipes[1]:
        yield pipes


@asynccontextmanager
async def ssl_stream() -> AsyncIterator[Pair]:
    """Python's own."""
    near, far = _tcp_pair()
    yield await asyncio.gather(_ssl_end(near, client_context(), server=False), _ssl_end(far, server_context(BOB)))


@asynccontextmanager
async def plain_pipe() -> AsyncIterator[Pair]:
    """Our pipe over TCP where both ends want no tunnel."""
    pipes = [PlainPipe(TcpStream(each), "peer") for each in _tcp_pair()]
    async with pipes[0], pipes[1]:
        yield pipes[0], pipes[1]


@asynccontextmanager
async def bare_socket() -> AsyncIterator[Pair]:
    """A TCP socket by itself."""
    near, far = _tcp_pair()
    with near, far:
        yield _Bare(near), _Bare(far)


@asynccontextmanager
async def quic_pipe() -> AsyncIterator[Pair]:
    """Our pipe over UDP."""
    alice, bob = _proved()
    near, far = _udp(), _udp()
    client, server = QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID), QuicEngine(Side.RESPONDER, BOB, ATTEMPT_ID)
    for data in client.connect(asyncio.get_running_loop().time()):
        near.send_to(data, far.local)
    pipes = await asyncio.gather(
        QuicPipe.open(client, DatagramPath(near, far.local), alice),
        QuicPipe.open(server, DatagramPath(far, near.local), bob),
    )
    async with pipes[0], pipes[1]:
        yield pipes


@asynccontextmanager
async def aioquic_stream() -> AsyncIterator[Pair]:
    """aioquic's own, as it comes."""
    certificate, key = certificate_of(BOB)
    accepted: asyncio.Queue[_Streams] = asyncio.Queue()
    at_server = QuicConfiguration(is_client=False, certificate=certificate, private_key=key, alpn_protocols=["bench"])
    at_client = QuicConfiguration(verify_mode=ssl.CERT_NONE, alpn_protocols=["bench"])
    port = _free_port()
    server = await serve(
        HOME, port, configuration=at_server, stream_handler=lambda *stream: accepted.put_nowait(_Streams(*stream))
    )
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        client = await stack.enter_async_context(connect(HOME, port, configuration=at_client))
        near = _Streams(*await client.create_stream())
        await near.send(b"x")  # a stream is there once something has come over it
        far = await accepted.get()
        await far.recv(1)
        yield near, far


async def _ssl_end(opened: socket.socket, context: ssl.SSLContext, *, server: bool = True) -> _Streams:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    if server:
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, opened, ssl=context)
    else:
        transport, _ = await loop.create_connection(lambda: protocol, sock=opened, ssl=context, server_hostname="")
    return _Streams(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server((HOME, 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for opened in (near, far):
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind((HOME, 0))
        return int(opened.getsockname()[1])


def _udp() -> UdpSocket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind((HOME, 0))
    return UdpSocket(opened)


def _proved() -> tuple[Handshake, Handshake]:
    """Both sides of a proof, as far as TAKE."""

    def side(side: Side, me: Identity, peer: Identity) -> Handshake:
        return Handshake(
            side=side,
            identity=me,
            peer=peer.public,
            connection_id="c0" * 16,
            attempt_id=ATTEMPT_ID,
            combo=Combo("bench", 4, RouteType.LOOPBACK),
            started_at_us=0,
            nonce=secrets.token_bytes(16),
        )

    initiator, responder = side(Side.INITIATOR, ALICE, BOB), side(Side.RESPONDER, BOB, ALICE)
    initiator.receive(responder.receive(initiator.opener()).reply or b"")
    responder.receive(initiator.take())
    return initiator, responder


async def round_trip_us(near: End, far: End) -> float:
    """The mean time in which sixteen bytes come back."""

    async def echo() -> None:
        for _ in range(ROUNDS):
            await far.send(await far.recv())

    echoing = asyncio.create_task(echo())
    began_s = time.perf_counter()
    for _ in range(ROUNDS):
        await near.send(bytes(16))
        await near.recv()
    took_s = time.perf_counter() - began_s
    await echoing
    return took_s / ROUNDS * 1e6


async def throughput_mb_s(near: End, far: End, total_bytes: int) -> float:
    """Megabytes a second from one end to the other, up to the stream's end."""

    async def send() -> None:
        for _ in range(total_bytes // CHUNK_BYTES):
            await near.send(bytes(CHUNK_BYTES))
        await near.send_eof()

    began_s = time.perf_counter()
    sending = asyncio.create_task(send())
    while await far.recv(CHUNK_BYTES):
        continue
    took_s = time.perf_counter() - began_s
    await sending
    return total_bytes / took_s / 1e6


Contender = Callable[[], AbstractAsyncContextManager[Pair]]


async def measured(contender: Contender, total_bytes: int) -> tuple[float, float]:
    """Its round trip in microseconds, and its throughput in megabytes a second."""
    async with contender() as (near, far):
        return await round_trip_us(near, far), await throughput_mb_s(near, far, total_bytes)


def compare(ours: Contender, theirs: Contender, total_bytes: int) -> str:
    """A line of the table: medians of both, and the median ratio of ours to theirs, which followed or led at once: what
    else the machine does meets both."""
    pairs = [_turn(ours, theirs, total_bytes, first=bool(turn % 2)) for turn in range(TURNS)]
    (our_us, our_mb_s), (their_us, their_mb_s) = (
        [statistics.median(pair[who][what] for pair in pairs) for what in (0, 1)] for who in (0, 1)
    )
    slower, faster = (statistics.median(ours[what] / theirs[what] for ours, theirs in pairs) for what in (0, 1))
    names = f"{ours.__name__} against {theirs.__name__}"
    return (
        f"{names:33}  {our_mb_s:7.1f} {their_mb_s:7.1f} MB/s  {faster:5.2f}"
        f"  {our_us:7.0f} {their_us:7.0f} us  {slower:5.2f}"
    )


def _turn(ours: Contender, theirs: Contender, total_bytes: int, *, first: bool) -> list[tuple[float, float]]:
    """What both reach, ours first or theirs."""
    found = [asyncio.run(measured(each, total_bytes)) for each in ((ours, theirs) if first else (theirs, ours))]
    return found if first else found[::-1]


def main() -> None:
    """Print a line for each of our pipes."""
    print(f"{'':33}  throughput, ratio              round trip, ratio")
    print(compare(tls_pipe, ssl_stream, STREAM_BYTES))
    print(compare(quic_pipe, aioquic_stream, DATAGRAM_BYTES))
    print(compare(plain_pipe, bare_socket, PLAIN_BYTES))


if __name__ == "__main__":
    main()
