"""Pipes between Alice and Bob, sealed, on sockets in memory."""

import asyncio

from fake_network import FakeStream, FakeUdp
from fake_node import ALICE, ATTEMPT_ID, BOB, handshakes
from warpfleet.core.combo import Side
from warpfleet.net.handshake import Handshake
from warpfleet.net.quic import DatagramPath, QuicPipe
from warpfleet.net.quic_engine import QuicEngine
from warpfleet.net.tls import TlsPipe, Tunnel


def proved() -> tuple[Handshake, Handshake]:
    """Both sides of one attempt, as far as TAKE."""
    initiator, responder = handshakes()
    initiator.receive(responder.receive(initiator.opener()).reply or b"")
    responder.receive(initiator.take())
    return initiator, responder


async def tls_pipes(near: FakeStream, far: FakeStream) -> tuple[TlsPipe, TlsPipe]:
    """Alice's end, who is the initiator, and Bob's."""
    a, b = proved()
    return await asyncio.gather(
        TlsPipe.open(near, Tunnel(Side.INITIATOR, ALICE), a), TlsPipe.open(far, Tunnel(Side.RESPONDER, BOB), b)
    )


async def quic_pipes(near: FakeUdp, far: FakeUdp, *, relayed: bool = False) -> tuple[QuicPipe, QuicPipe]:
    """Alice's end, who is the initiator, and Bob's."""
    a, b = proved()
    client, server = QuicEngine(Side.INITIATOR, ALICE, ATTEMPT_ID), QuicEngine(Side.RESPONDER, BOB, ATTEMPT_ID)
    for data in client.connect(asyncio.get_running_loop().time()):
        near.send_to(data, far.seen_as)
    return await asyncio.gather(
        QuicPipe.open(client, DatagramPath(near, far.seen_as, relayed), a),
        QuicPipe.open(server, DatagramPath(far, near.seen_as, relayed), b),
    )
