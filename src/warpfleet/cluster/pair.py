"""Two nodes of a fleet, served in this process without Ray."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from warpfleet.actors.node import Node
from warpfleet.actors.together import together
from warpfleet.cluster.services import with_embedded_services
from warpfleet.configs.fleet import Fleet
from warpfleet.core.identity import Identity
from warpfleet.net.vantage import Vantage


@asynccontextmanager
async def open_pair(fleet: Fleet, initiator: str, responder: str) -> AsyncIterator[tuple[Node, Node]]:
    """Both, open until the block ends, each with a fresh key and trusting the other alone. MissingError."""
    names = initiator, responder
    pair = fleet.model_copy(update={"nodes": tuple(fleet.node(name) for name in names)})
    near, far = (Identity.generate(name, secrets.token_bytes(32)) for name in names)
    async with with_embedded_services(pair) as whole, AsyncExitStack() as stack:
        services = whole.services
        one, other = await together(
            *(
                stack.enter_async_context(
                    Node.open(
                        identity,
                        peers=[peer.public],
                        mqtt=services.mqtt,
                        stun=services.stun,
                        turn=services.turn,
                        ntp=services.ntp,
                        vantage=Vantage.of(node.vantage),
                        listen=node.listen,
                        plain=node.plain,
                    )
                )
                for identity, peer, node in zip((near, far), (far, near), whole.nodes, strict=True)
            )
        )
        yield one, other
