"""`warpfleet nat`: each node's NAT behaviour."""

import asyncio
import json
from dataclasses import asdict, dataclass

from rich.table import Table

from warpfleet.cli.options import FleetPath, Json, console, enter_namespaces, load_fleet
from warpfleet.configs.fleet import Fleet, FleetNode
from warpfleet.core.errors import MissingError
from warpfleet.core.nat import NatBehaviour
from warpfleet.core.peer import ADDRESS_FAMILIES
from warpfleet.net.interfaces import Unreachable
from warpfleet.net.vantage import Vantage

_AT_ONCE = 32  # probes; each opens some ten sockets


@dataclass(frozen=True, slots=True)
class _Found:
    node: str
    af: int
    external_ip: str | None
    nat: NatBehaviour


def nat(fleet_path: FleetPath, as_json: Json = False) -> None:
    """Find out the NAT behaviour before each node (RFC 5780), in the terms of RFC 4787."""
    fleet = load_fleet(fleet_path)
    if not fleet.services.stun:
        raise MissingError(f"{fleet_path}: services.stun names no server, without which no NAT can be seen; add one")
    enter_namespaces(fleet)
    found = asyncio.run(_probe_all(fleet))
    if as_json:
        print(json.dumps([asdict(item) | {"alias": item.nat.alias} for item in found]))
        return
    table = Table("node", "af", "external", "alias", "mapping", "filtering", "ports", "hairpin", "udp", box=None)
    for item in found:
        behaviour = item.nat
        ports = behaviour.port_assignment + (f" {behaviour.port_delta:+}" if behaviour.port_delta else "")
        ports += f" {behaviour.port_range}" if behaviour.port_range else ""
        facts = (behaviour.mapping, behaviour.filtering, ports, _yes_no(behaviour.hairpin), _yes_no(behaviour.udp))
        table.add_row(item.node, str(item.af), item.external_ip or "-", behaviour.alias, *facts)
    console().print(table)


def _yes_no(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"


async def _probe_all(fleet: Fleet) -> list[_Found]:
    from warpfleet.net.natprobe import probe  # noqa: PLC0415 - other commands start sooner without them
    from warpfleet.net.network import KernelNetwork  # noqa: PLC0415

    at_once = asyncio.Semaphore(_AT_ONCE)

    async def probe_one(node: FleetNode) -> list[_Found]:
        vantage = Vantage.of(node.vantage)
        vantage.check()
        network = KernelNetwork(vantage, stun_servers=fleet.services.stun)
        found = []
        for af in ADDRESS_FAMILIES:
            if not any(server.af == af for server in fleet.services.stun):
                continue
            async with at_once:
                try:
                    report = await probe(network, fleet.services.stun, af=af)
                except Unreachable:
                    continue
            found.append(_Found(node.name, af, report.external_ip, report.behaviour))
        return found

    return [item for items in await asyncio.gather(*(probe_one(node) for node in fleet.nodes)) for item in items]
