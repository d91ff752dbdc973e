"""Warpfleet as a library: `Node.open`, one node in the program's own event loop, without Ray."""

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import Any

from bench.host import Host, main
from bench.link import Link, serve
from warpfleet.actors.node import Node
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.net.interfaces import ConnectionLost, Pipe


class _PipeLink(Link):
    stream = True

    def __init__(self, pipe: Pipe, how: str) -> None:
        self._pipe = pipe
        self.relayed = pipe.path.relayed
        self.how = how

    async def send(self, data: bytes) -> None:
        await self._pipe.send(data)

    async def receive(self) -> bytes:
        try:
            return await self._pipe.recv()
        except ConnectionLost as lost:
            raise ConnectionError(str(lost)) from lost

    async def close(self) -> None:
        await self._pipe.close()


class InlineNode(Host):
    """One node, with every service of the laboratory."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._identity = Identity.generate(self.name, secrets.token_bytes(32))
        self._life = AsyncExitStack()
        self._serving: set[asyncio.Task[None]] = set()
        self._node: Node

    async def open(self) -> str:
        services = self.settings["services"]
        self._node = await self._life.enter_async_context(
            Node.open(self._identity, listen=self.settings["listen"], **services)
        )
        self._serving.add(asyncio.create_task(self._accept()))
        return self._identity.public.key.hex()

    async def meet(self, peers: dict[str, Any]) -> None:
        await self._node.trust(*(PublicIdentity(name, bytes.fromhex(key)) for name, key in peers.items()))

    async def connect(self, peer: str, by: str | None) -> Link:
        try:
            pipe = await self._node.connect(peer, plugin_name=by)
        except WarpfleetError as error:
            raise ConnectionError(str(error)) from error
        return _PipeLink(pipe, f"{'relay' if pipe.path.relayed else 'direct'} {pipe.path.transport}")

    async def _accept(self) -> None:
        async for pipe in self._node.accept():
            serving = asyncio.create_task(serve(_PipeLink(pipe, "accepted")))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)


if __name__ == "__main__":
    main(InlineNode)
