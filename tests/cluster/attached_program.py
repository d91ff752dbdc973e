"""A program for tests: it is attached to a node, takes one pipe, says so, and waits to be killed."""

import asyncio
import sys
from pathlib import Path

from warpfleet.cluster.attached_node import AttachedNode
from warpfleet.cluster.control import ClusterClient


async def main(socket: Path, name: str) -> None:
    """Attached until it is killed."""
    async with AttachedNode.open(name, cluster=ClusterClient(socket)) as node:
        print("attached", flush=True)
        async for pipe in node.accept():
            print(pipe.peer, (await pipe.recv()).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
