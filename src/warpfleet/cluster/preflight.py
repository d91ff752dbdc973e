"""Whether the services that a fleet file names are there, so that a sweep does not find out pair by pair."""

import asyncio
from collections.abc import Sequence

from warpfleet.actors.signal_host import NodeReport
from warpfleet.cluster.fleet_runtime import vantage_of
from warpfleet.configs.fleet import Fleet
from warpfleet.core.errors import MissingError, WarpfleetError
from warpfleet.net.network import KernelNetwork

_ALLOCATE_S = 5.0
_NODES_ASKED = 3  # one node's own path may be broken; three of them fail for the server's sake


def check_stun(fleet: Fleet, reports: Sequence[NodeReport]) -> None:
    """MissingError where the fleet names STUN servers and no node heard from any."""
    if fleet.services.stun and not any(report.view.external for report in reports):
        servers = ", ".join(str(server) for server in fleet.services.stun)
        raise MissingError(f"no STUN server answered any node ({servers}); start one, or mend services.stun")


async def check_relays(fleet: Fleet) -> None:
    """MissingError where the fleet names TURN servers and none of them gives the first nodes a relayed address."""
    if not fleet.services.turn:
        return
    problems = await asyncio.gather(*(_relay_problem(fleet, i) for i in range(min(_NODES_ASKED, len(fleet.nodes)))))
    if all(problems):
        servers = ", ".join(server.url for server in fleet.services.turn)
        raise MissingError(f"no TURN server serves ({servers}): {problems[0]}; start one, or mend services.turn")


async def _relay_problem(fleet: Fleet, index: int) -> str:
    network = KernelNetwork(vantage_of(fleet.nodes[index]), turn_servers=fleet.services.turn)
    try:
        socket = await network.allocate_relay(4, timeout_s=_ALLOCATE_S)
    except (TimeoutError, WarpfleetError) as error:
        return str(error) or "no answer"
    socket.close()
    await network.relays.close()
    return ""
