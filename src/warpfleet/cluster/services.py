"""Embedded services for a fleet file that names none: an MQTT broker and a STUN responder on loopback."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address

from warpfleet.configs.fleet import Broker, Fleet, FleetNode
from warpfleet.core.errors import MissingError
from warpfleet.net.stunserver import StunServer
from warpfleet.signal.broker import EmbeddedBroker


@asynccontextmanager
async def with_embedded_services(fleet: Fleet) -> AsyncIterator[Fleet]:
    """The fleet with what it lacks, for as long as the block lasts.

    MissingError where it names no broker and one of its nodes does not share our loopback interface.
    """
    async with AsyncExitStack() as stack:
        services = fleet.services
        apart = [node for node in fleet.nodes if not _shares_loopback(node)]
        if not services.mqtt:
            if apart:
                raise MissingError(
                    f"fleet {fleet.name}: services.mqtt names no broker, and the embedded one serves loopback only, "
                    f"which node {apart[0].name} does not share; add a broker"
                )
            broker = await stack.enter_async_context(EmbeddedBroker())
            services = services.model_copy(update={"mqtt": (Broker.model_validate(broker.url),)})
        if not services.stun and not apart:
            stun = await StunServer.start()
            stack.push_async_callback(stun.close)
            services = services.model_copy(update={"stun": stun.endpoints})
        yield fleet.model_copy(update={"services": services})


def _shares_loopback(node: FleetNode) -> bool:
    vantage = node.vantage
    if vantage is None:
        return True
    return vantage.address is not None and ip_address(vantage.address).is_loopback
