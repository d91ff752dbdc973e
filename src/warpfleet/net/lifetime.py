"""How long an idle UDP mapping lives (RFC 5780 section 4.6): several mappings at once, each left alone for longer."""

import asyncio
from collections.abc import Sequence

from warpfleet.core.endpoint import Endpoint
from warpfleet.net import stun
from warpfleet.net.interfaces import ConnectionLost, DatagramSocket, Network
from warpfleet.net.stun import Transactions

# Lifetimes that are met with: RFC 4787 section 4.3 demands two minutes and recommends five; many give 30 s or a minute.
LADDER_S = (15.0, 30.0, 60.0, 120.0, 180.0, 300.0)
_ANSWER_S = 2.0


async def mapping_lifetime_s(
    network: Network, server: Endpoint, *, ladder_s: Sequence[float] = LADDER_S
) -> float | None:
    """The longest of these idle times, in seconds, after which a mapping still let an answer in. None where not even
    the shortest one did, or the server does not know the attribute RESPONSE-PORT. Takes as long as the longest.

    Costs three packets for each step of the ladder. Unreachable where the vantage has no such address family.
    """
    async with asyncio.TaskGroup() as group:
        steps = [group.create_task(_survives(network, server, idle_s)) for idle_s in ladder_s]
    alive = [idle_s for idle_s, step in zip(ladder_s, steps, strict=True) if step.result()]
    return max(alive, default=None)


async def _survives(network: Network, server: Endpoint, idle_s: float) -> bool:
    """Whether a fresh mapping is there after so long. The answer is sent to its port on behalf of another socket: one
    of its own would renew it, and would be answered whether it had lived or not."""
    idle, asking = await network.open_udp(server.af), await network.open_udp(server.af)
    heard, requests = Transactions(idle.send_to), Transactions(asking.send_to)
    reading = asyncio.create_task(_read(idle, heard))
    try:
        mapped = (await heard.binding(server, timeout_s=_ANSWER_S)).mapped
        await asyncio.sleep(idle_s)
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        request.attributes["RESPONSE-PORT"] = mapped.port
        await requests.exchange(
            request, server, times_s=list(stun.send_times_s(_ANSWER_S))[:2], timeout_s=_ANSWER_S, heard_by=heard
        )
    except TimeoutError:
        return False
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        idle.close()
        asking.close()
    return True


async def _read(socket: DatagramSocket, transactions: Transactions) -> None:
    while True:
        try:
            transactions.feed(*await socket.receive())
        except ConnectionLost:
            return
