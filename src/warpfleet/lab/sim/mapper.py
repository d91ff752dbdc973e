"""A simulated host's gateway, as it is asked to map ports; what it answers takes no time."""

import asyncio
from collections.abc import Callable, Sequence

from warpfleet.core.endpoint import Endpoint
from warpfleet.core.port_mapping import PortMapping
from warpfleet.lab.sim.host import Host
from warpfleet.lab.sim.internet import Router
from warpfleet.net.portmap.client import GatewayClient
from warpfleet.net.portmap.mapping import GatewaySilent, Granted, MappingRefused
from warpfleet.net.portmap.udp import GREETING_S


class SimMapper:
    """One protocol, spoken to a simulated router for one of a host's addresses."""

    def __init__(self, protocol: PortMapping, router: Router, ip: str) -> None:
        self._protocol = protocol
        self._router = router
        self._ip = ip

    @property
    def protocol(self) -> PortMapping:
        return self._protocol

    async def greet(self) -> None:
        if self._protocol not in self._router.port_mapping:
            await asyncio.sleep(GREETING_S)
            raise GatewaySilent("the router speaks another protocol, or none")

    async def map(self, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        external = self._router.open_port(Endpoint(self._ip, port), suggested, lifetime_s)
        if external is None:
            raise MappingRefused("every port is taken")
        return Granted(external, lifetime_s)

    async def unmap(self, port: int, _external: Endpoint) -> None:
        self._router.open_port(Endpoint(self._ip, port), 0, 0.0)


def client_of(host: Host, af: int, chance: Callable[[], float]) -> GatewayClient:
    """The gateway of a host. `chance` is from 0 to 1."""
    protocols = [p for p in PortMapping if af == 4 or p is not PortMapping.NATPMP]
    router = host.gateway

    async def mappers() -> Sequence[SimMapper]:
        return [SimMapper(p, router, host.address(af)) for p in protocols] if router else []

    return GatewayClient(mappers, chance=chance)
