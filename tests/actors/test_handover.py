"""Sockets pass between processes as descriptors, and nothing of them is lost."""

import asyncio
from pathlib import Path

import pytest

from warpfleet.actors.handover import SocketHandover
from warpfleet.actors.plugin_host import Handed
from warpfleet.core.combo import Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost, PipePath
from warpfleet.net.network import KernelNetwork
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import DatagramPath
from warpfleet.net.stream_datagrams import StreamDatagrams
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.inbox import InboundStream

FRAME = bytes(range(FRAME_BYTES % 256)) + bytes(FRAME_BYTES - FRAME_BYTES % 256)


async def test_a_stream_arrives_with_its_first_frame_and_its_unread_bytes(tmp_path: Path) -> None:
    arrived: asyncio.Queue[tuple[str, Handed]] = asyncio.Queue()
    receiver = SocketHandover(tmp_path, "turn", lambda node, inbound: arrived.put_nowait((node, inbound)))
    sender = SocketHandover(tmp_path, "direct_connect", lambda node, inbound: None)
    network = KernelNetwork(Vantage(address="127.0.0.1"))
    listener = await network.listen_tcp(Endpoint("127.0.0.1", 0))
    client = await network.connect_tcp(listener.local, timeout_s=5)
    accepted = await listener.accept()
    await client.write(b"unread")

    sender.send("turn", "alice", InboundStream(accepted, FRAME))
    async with asyncio.timeout(5):
        node, inbound = await arrived.get()
        assert isinstance(inbound, InboundStream)
        assert (node, inbound.first_frame) == ("alice", FRAME)
        assert await inbound.stream.read_exactly(6) == b"unread"
        await inbound.stream.write(b"back")
        assert await client.read_exactly(4) == b"back"
    for closing in (receiver, sender, listener, client, inbound.stream):
        closing.close()


async def test_a_stream_for_a_plugin_that_is_gone_is_closed(tmp_path: Path) -> None:
    sender = SocketHandover(tmp_path, "direct_connect", lambda node, inbound: None)
    network = KernelNetwork(Vantage(address="127.0.0.1"))
    listener = await network.listen_tcp(Endpoint("127.0.0.1", 0))
    client = await network.connect_tcp(listener.local, timeout_s=5)
    sender.send("nobody", "alice", InboundStream(await listener.accept(), FRAME))
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost):
            await client.read(1)
    for closing in (sender, listener, client):
        closing.close()


async def test_a_burst_larger_than_the_kernels_queue_arrives_whole(tmp_path: Path) -> None:
    burst = 40
    arrived: asyncio.Queue[Handed] = asyncio.Queue()
    receiver = SocketHandover(tmp_path, "turn", lambda _node, inbound: arrived.put_nowait(inbound))
    sender = SocketHandover(tmp_path, "direct_connect", lambda _node, _inbound: None)
    network = KernelNetwork(Vantage(address="127.0.0.1"))
    listener = await network.listen_tcp(Endpoint("127.0.0.1", 0))
    clients = [await network.connect_tcp(listener.local, timeout_s=5) for _ in range(burst)]
    streams = [await listener.accept() for _ in range(burst)]
    for stream in streams:
        sender.send("turn", "alice", InboundStream(stream, FRAME))
    async with asyncio.timeout(5):
        taken = [await arrived.get() for _ in range(burst)]
    for closing in (
        receiver,
        sender,
        listener,
        *clients,
        *(inbound.stream for inbound in taken if isinstance(inbound, InboundStream)),
    ):
        closing.close()
    assert len(taken) == burst


async def test_the_path_of_a_pipe_arrives_over_udp_and_over_tcp(tmp_path: Path) -> None:
    arrived: asyncio.Queue[tuple[str, Handed]] = asyncio.Queue()
    receiver = SocketHandover(tmp_path, "turn", lambda node, handed: arrived.put_nowait((node, handed)))
    sender = SocketHandover(tmp_path, "udp_punch", lambda _node, _handed: None)
    network = KernelNetwork(Vantage(address="127.0.0.1"))
    peer, socket = await network.open_udp(4), await network.open_udp(4)
    listener = await network.listen_tcp(Endpoint("127.0.0.1", 0))
    client = await network.connect_tcp(listener.local, timeout_s=5)
    stream, far = StreamDatagrams(client), StreamDatagrams(await listener.accept())
    ways = [
        (DatagramPath(socket, peer.local, answer=b"\0agreed"), peer),
        (DatagramPath(stream, listener.local, transport=Transport.TCP), far),
    ]
    for way, other in ways:
        local = way.socket.local
        sender.send("turn", "alice", ProvedPath("turn", "c1" * 16, "bob", Side.RESPONDER, way))
        async with asyncio.timeout(5):
            node, path = await arrived.get()
            assert isinstance(path, ProvedPath)
            assert (node, path.plugin, path.connection_id, path.peer) == ("alice", "turn", "c1" * 16, "bob")
            assert path.side is Side.RESPONDER
            assert (path.way.answer, path.path) == (way.answer, PipePath(way.transport, local, way.remote))
            path.way.send(b"there")
            assert await other.receive() == (b"there", local)
            other.send_to(b"and back", local)
            assert await path.way.socket.receive() == (b"and back", way.remote)
        path.discard()
    for closing in (receiver, sender, listener, peer, far):
        closing.close()
