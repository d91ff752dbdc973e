"""Whether what a fleet file names is there, before anything is started for it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from warpfleet.actors.own_node import NodeReport
from warpfleet.configs.fleet import Fleet, FleetNode
from warpfleet.core.errors import MissingError, WarpfleetError
from warpfleet.net.network import KernelNetwork
from warpfleet.net.vantage import Vantage

_ANSWER_S = 5.0
_NODES_ASKED = 5  # one node's own path may be broken; five of them fail for the service's sake


async def check_services(fleet: Fleet) -> None:
    """MissingError where a vantage, a broker or a TURN server that the fleet names is not there."""
    for node in fleet.nodes:
        Vantage.of(node.vantage).check()
    if problem := await _from_some(fleet, _broker_problem) if fleet.services.mqtt else "":
        brokers = ", ".join(str(broker) for broker in fleet.services.mqtt)
        raise MissingError(f"no MQTT broker answers ({brokers}): {problem}; start one, or mend services.mqtt")
    if problem := await _from_some(fleet, _relay_problem) if fleet.services.turn else "":
        servers = ", ".join(server.url for server in fleet.services.turn)
        raise MissingError(f"no TURN server serves ({servers}): {problem}; start one, or mend services.turn")


def check_stun(fleet: Fleet, reports: Sequence[NodeReport]) -> None:
    """MissingError where the fleet names STUN servers and no node heard from any."""
    if fleet.services.stun and not any(report.view.external for report in reports):
        servers = ", ".join(str(server) for server in fleet.services.stun)
        raise MissingError(f"no STUN server answered any node ({servers}); start one, or mend services.stun")


async def _from_some(fleet: Fleet, problem_of: Callable[[Fleet, FleetNode], Awaitable[str]]) -> str:
    """What is wrong as seen from some nodes, spread over the fleet; nothing where one of them is served."""
    step = max(len(fleet.nodes) // _NODES_ASKED, 1)
    problems = await asyncio.gather(*(problem_of(fleet, node) for node in fleet.nodes[::step][:_NODES_ASKED]))
    return problems[0] if all(problems) else ""


async def _broker_problem(fleet: Fleet, node: FleetNode) -> str:
    problem = ""
    for broker in fleet.services.mqtt:
        try:
            connect = Vantage.of(node.vantage).connect_blocking
            (await asyncio.to_thread(connect, broker.host, broker.port, _ANSWER_S)).close()
        except (OSError, WarpfleetError) as error:
            problem = str(error) or "no answer"
        else:
            return ""
    return problem


async def _relay_problem(fleet: Fleet, node: FleetNode) -> str:
    network = KernelNetwork(Vantage.of(node.vantage), turn_servers=fleet.services.turn)
    try:
        (await network.allocate_relay(4, timeout_s=_ANSWER_S)).close()
    except (TimeoutError, WarpfleetError) as error:
        return str(error) or "no answer"
    finally:
        await network.close()
    return ""
