"""All addresses of a peer at once: the first that answers wins."""

import asyncio
from dataclasses import replace

import pytest
from meeting import EXT, Meeting

from fake_network import Internet
from fake_node import ALICE, BOB, node, view
from virtual_time import virtual_time
from warpfleet.core.combo import Combo, RouteType
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.targets import loopback_alias
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.fan_out import FanOut
from warpfleet.plugins.inbox import InboundStream


@virtual_time
@pytest.mark.parametrize(
    ("listens_at", "route"),
    [("198.51.100.2", EXT), ("192.168.1.3", RouteType.NIC), (loopback_alias(BOB.public.key), RouteType.LOOPBACK)],
)
async def test_fan_out_wins_over_whichever_address_answers(listens_at: str, route: RouteType) -> None:
    internet = Internet()
    alice, bob = node(ALICE, internet, "192.168.1.2"), node(BOB, internet, "192.168.1.3")
    for who, ip in ((alice, "192.168.1.2"), (bob, "192.168.1.3")):
        listeners = (Endpoint(ip, 443), Endpoint(loopback_alias(who.identity.public.key), 443))
        at_home = view(who.name, ip, machine="one box")
        who.view = replace(at_home, external={4: "198.51.100.2"}, listeners=listeners)
    bob.network.ip = listens_at
    listener = await bob.network.listen_tcp(Endpoint("0.0.0.0", 443))
    meeting = Meeting(FanOut, alice, bob)

    async def serve() -> None:
        stream = await listener.accept()
        meeting.b.inbox.put_stream(InboundStream(stream, await stream.read_exactly(FRAME_BYTES)))

    bob.spawn(serve())
    async with asyncio.timeout(5):
        pipe = (await asyncio.gather(FanOut(meeting.a).run(), FanOut(meeting.b).run()))[0]
    assert meeting.a.combo == Combo("fan_out", 4, route)
    assert pipe.path.remote.ip == listens_at
    await bob.close()
