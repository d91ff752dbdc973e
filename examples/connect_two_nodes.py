"""Two nodes in one program, each a library user's own: they trust each other's keys, connect, and talk.

    python examples/connect_two_nodes.py mqtt://127.0.0.1:1883

On two machines, run `initiate` on one and `respond` on the other, and exchange the public identities beforehand.
"""

import asyncio
import secrets
import sys

from warpfleet.actors.node import Node
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity

ANSWER_S = 5.0


async def initiate(identity: Identity, peer: PublicIdentity, broker: str) -> None:
    """Connect to the peer, send a line, print the answer."""
    async with Node.open(identity, peers=[peer], mqtt=[broker]) as node, await node.connect(peer.name) as pipe:
        print(f"{identity.name}: {pipe}")
        await pipe.send(b"hello")
        async with asyncio.timeout(ANSWER_S):
            print(f"{identity.name} received {(await pipe.recv()).decode()!r}")


async def respond(identity: Identity, peer: PublicIdentity, broker: str) -> None:
    """Accept one pipe, and answer what comes over it."""
    async with Node.open(identity, peers=[peer], mqtt=[broker]) as node, await anext(node.accept()) as pipe:
        print(f"{identity.name}: {pipe}")
        async with asyncio.timeout(ANSWER_S):
            await pipe.send((await pipe.recv()).upper())


async def main(broker: str) -> None:
    """Both ends in one event loop."""
    alice, bob = (Identity.generate(name, secrets.token_bytes(32)) for name in ("alice", "bob"))
    async with asyncio.TaskGroup() as both:
        both.create_task(respond(bob, alice.public, broker))
        both.create_task(initiate(alice, bob.public, broker))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1]))
    except* WarpfleetError as failed:
        sys.exit(f"error: {failed.exceptions[0]}")
