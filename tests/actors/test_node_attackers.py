"""What strangers and faithless peers can do to a node: nothing."""

import asyncio
import secrets
import time
from dataclasses import dataclass

import pytest
from loopback_nodes import HOME, NEEDS_BROKER, Cast, accepted, collected, exchange, hub_of, opened

from warpfleet.actors.base_node import ConnectFailed
from warpfleet.actors.node import Node
from warpfleet.core.combo import Combo, Reason, RouteType, Side
from warpfleet.core.identity import Identity
from warpfleet.net.handshake import FRAME_BYTES, Event, Handshake
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.network import KernelNetwork
from warpfleet.net.sockets import TcpStream
from warpfleet.net.tls import TlsPipe, Tunnel
from warpfleet.plugins.address_messages import GetAddr, ReturnAddr
from warpfleet.plugins.attempt_messages import Abandon, AttemptMessage
from warpfleet.signal.mailbox import PeerUnavailable

pytestmark = [NEEDS_BROKER, pytest.mark.usefixtures("nothing_is_left")]


@dataclass
class Dialler:
    """Speaks the pipe protocol by hand as the initiator, for `identity`, to a node's listener on loopback."""

    identity: Identity
    node: Node
    connection_id: str = "c" * 32
    attempt_id: str = "a" * 32

    def handshake(self) -> Handshake:
        return Handshake(
            side=Side.INITIATOR,
            identity=self.identity,
            peer=self.node.public,
            connection_id=self.connection_id,
            attempt_id=self.attempt_id,
            combo=Combo("direct_connect", 4, RouteType.LOOPBACK),
            started_at_us=time.time_ns() // 1000,
            nonce=secrets.token_bytes(16),
        )

    async def dial(self) -> TcpStream:
        remote = next(e for e in self.node.view.listeners if e.af == 4)
        return await KernelNetwork(HOME).connect_tcp(remote, timeout_s=2)


async def answer(stream: TcpStream) -> bytes:
    async with asyncio.timeout(2):
        return await stream.read_exactly(FRAME_BYTES)


async def test_a_stranger_gets_no_answer_from_a_listener(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.bob, cast.alice) as (bob, _):
        mallory = Dialler(Identity.generate("alice", secrets.token_bytes(32)), bob)
        stream = await mallory.dial()
        await stream.write(mallory.handshake().opener())
        with pytest.raises(ConnectionLost):
            await answer(stream)
        stream.close()


async def test_a_stranger_with_a_node_of_its_own_cannot_connect(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.bob, cast.alice) as (bob, _), opened(broker, cast.eve) as (eve,):
        await eve.trust(bob.public)
        with pytest.raises(ConnectFailed) as failed:
            await eve.connect("bob", plugin_name="direct_connect", timeout_s=2)
        assert failed.value.reason is Reason.ALL_FAILED
        accepting = asyncio.create_task(collected(bob))
        await asyncio.sleep(0)
        assert not accepting.done()
        accepting.cancel()
        await asyncio.wait([accepting])


async def test_a_key_that_was_replaced_is_a_strangers(broker: str, cast: Cast) -> None:
    renewed = Identity.generate("alice", secrets.token_bytes(32))
    async with opened(broker, cast.bob) as (bob,):
        await bob.trust(cast.alice.public)
        await bob.trust(renewed.public)
        old, new = Dialler(cast.alice, bob), Dialler(renewed, bob)
        stream = await old.dial()
        await stream.write(old.handshake().opener())
        with pytest.raises(ConnectionLost):
            await answer(stream)
        stream.close()
        stream, proof = await new.dial(), new.handshake()
        await stream.write(proof.opener())
        assert proof.receive(await answer(stream)).event is Event.PROVED
        stream.close()


def question(kind: type[AttemptMessage], attempt_id: str, **fields: str) -> AttemptMessage:
    head = {"attempt_id": attempt_id, "af": 4, "route": RouteType.EXT, "started_at_us": time.time_ns() // 1000}
    return kind.model_validate(head | fields)


async def test_a_strangers_signal_is_neither_acknowledged_nor_answered(broker: str, cast: Cast) -> None:
    async with (
        opened(broker, cast.bob) as (bob,),
        hub_of(cast.alice, broker, bob.public) as (trusted, answers),
        hub_of(cast.eve, broker, bob.public) as (stranger, leaks),
    ):
        await bob.trust(cast.alice.public)
        with pytest.raises(PeerUnavailable):
            await stranger.send("eve", "bob", "c" * 32, question(GetAddr, "a" * 32), 0.3)
        await trusted.send("alice", "bob", "c" * 32, question(GetAddr, "b" * 32), 2)
        async with asyncio.timeout(2):
            assert isinstance((await answers.get()).message, ReturnAddr)
        assert leaks.empty()


async def test_a_trusted_third_cannot_take_over_an_attempt_of_two_others(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.bob) as (bob,), hub_of(cast.eve, broker, bob.public) as (hub, _):
        await bob.trust(cast.alice.public, cast.eve.public)
        alice, eve = Dialler(cast.alice, bob), Dialler(cast.eve, bob)
        stream, proof = await alice.dial(), alice.handshake()
        await stream.write(proof.opener())
        assert proof.receive(await answer(stream)).event is Event.PROVED

        intruder = await eve.dial()
        await intruder.write(eve.handshake().opener())
        with pytest.raises(ConnectionLost):
            await answer(intruder)
        intruder.close()
        await hub.send(
            "eve", "bob", alice.connection_id, question(Abandon, alice.attempt_id, plugin="direct_connect"), 2
        )

        tunnel = Tunnel(Side.INITIATOR, cast.alice)
        await stream.write(b"".join((proof.take(), *tunnel.first_flight())))
        assert proof.receive(await answer(stream)).event is Event.AGREED
        mine = await TlsPipe.open(stream, tunnel, proof)
        theirs = await accepted(bob)
        assert theirs.peer == "alice"
        await exchange(mine, theirs)
