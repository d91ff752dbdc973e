"""Streams pass between processes as descriptors, and nothing of them is lost."""

import asyncio
from pathlib import Path

from warpfleet.actors.handover import SocketHandover
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage
from warpfleet.plugins.contract import InboundStream

FRAME = bytes(range(FRAME_BYTES % 256)) + bytes(FRAME_BYTES - FRAME_BYTES % 256)


async def test_a_stream_arrives_with_its_first_frame_and_its_unread_bytes(tmp_path: Path) -> None:
    arrived: asyncio.Queue[tuple[str, InboundStream]] = asyncio.Queue()
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
        try:
            rest = await client.read(1)
        except Exception as error:  # noqa: BLE001
            rest = type(error).__name__.encode()
    assert rest in (b"", b"ConnectionLost")
    for closing in (sender, listener, client):
        closing.close()


async def test_a_burst_larger_than_the_kernels_queue_arrives_whole(tmp_path: Path) -> None:
    burst = 40
    arrived: asyncio.Queue[InboundStream] = asyncio.Queue()
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
    for closing in (receiver, sender, listener, *clients, *(inbound.stream for inbound in taken)):
        closing.close()
    assert len(taken) == burst
