"""aioice's ICE, with offers and answers over the laboratory's broker. Runs in an environment of aioice's own.

A fair configuration: the client stands connected to the broker, the first message only wakes the peer, so that both
ends gather at once, and candidates follow as soon as they are there. aioice takes one TURN server and one transport to
it: UDP, and TCP at the host whose network blocks UDP.
"""

import asyncio
import json
import secrets
import socket
from contextlib import AsyncExitStack
from typing import Any

import aiomqtt
from aioice import Candidate, Connection

from bench.host import Host, main
from bench.link import Link, serve

_NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Session(Link):
    """One ICE connection. `details` is what the peer said of itself."""

    def __init__(self, host: "AioIce", session_id: str, peer: str, *, controlling: bool) -> None:
        services = host.settings
        turn = services["turn"][services["turn_transport"]]
        self._host = host
        self._id = session_id
        self._peer = peer
        self._connection = Connection(
            ice_controlling=controlling,
            stun_server=tuple(services["stun"]),
            turn_server=(turn["ip"], turn["port"]),
            turn_username=turn["username"],
            turn_password=turn["password"],
            turn_transport=services["turn_transport"],
            use_ipv6=False,  # the laboratory's hosts have none
        )
        self._relay_ips = {turn["ip"], *(ip for ip, _ in services["stun_servers"])}  # it relays from either address
        self.details: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        await self._connection.gather_candidates()
        candidates = [candidate.to_sdp() for candidate in self._connection.local_candidates]
        mine = {"username": self._connection.local_username, "password": self._connection.local_password}
        await self.say("details", **mine, candidates=candidates)
        theirs = await self.details
        self._connection.remote_username, self._connection.remote_password = theirs["username"], theirs["password"]
        for candidate in theirs["candidates"]:
            await self._connection.add_remote_candidate(Candidate.from_sdp(candidate))
        await self._connection.add_remote_candidate(None)
        await self._connection.connect()
        pair = self._connection._nominated[1]  # aioice shows the chosen pair nowhere else
        self.how = f"{pair.local_candidate.type} {pair.remote_candidate.type}"
        self.relayed = not self._relay_ips.isdisjoint((pair.local_candidate.host, pair.remote_candidate.host))

    async def say(self, kind: str, **content: Any) -> None:
        await self._host.publish(self._peer, {"kind": kind, "id": self._id, "from": self._host.name, **content})

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)

    async def receive(self) -> bytes:
        return await self._connection.recv()

    async def close(self) -> None:
        await self.end()
        await self.say("end")

    async def end(self) -> None:
        self._host.sessions.pop(self._id, None)
        await self._connection.close()


class AioIce(Host):
    """A client of the broker, and the sessions that are open."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.sessions: dict[str, _Session] = {}
        self._life = AsyncExitStack()
        self._serving: set[asyncio.Task[None]] = set()
        self._broker: aiomqtt.Client

    async def open(self) -> None:
        ip, port = self.settings["broker"]
        self._broker = await self._life.enter_async_context(aiomqtt.Client(ip, port, socket_options=[_NO_DELAY]))
        await self._broker.subscribe(_topic(self.name))
        self._spawn(self._hear())

    async def publish(self, peer: str, message: dict[str, Any]) -> None:
        await self._broker.publish(_topic(peer), json.dumps(message), qos=0)

    async def connect(self, peer: str, by: str | None) -> Link:
        session = self._new(secrets.token_hex(8), peer, controlling=True)
        try:
            await session.say("wake")
            await session.connect()
        except BaseException:
            await session.close()
            raise
        return session

    def _new(self, session_id: str, peer: str, *, controlling: bool) -> _Session:
        self.sessions[session_id] = _Session(self, session_id, peer, controlling=controlling)
        return self.sessions[session_id]

    async def _hear(self) -> None:
        async for received in self._broker.messages:
            message = json.loads(received.payload)
            if message["kind"] == "wake":
                self._spawn(self._respond(self._new(message["id"], message["from"], controlling=False)))
            elif session := self.sessions.get(message["id"]):
                if message["kind"] == "details":
                    session.details.set_result(message)
                else:
                    self._spawn(session.end())

    async def _respond(self, session: _Session) -> None:
        try:
            await session.connect()
        except OSError:  # no pair worked, or the initiator gave up
            await session.end()
        else:
            await serve(session)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)


def _topic(name: str) -> str:
    return f"bench/aioice/{name}"


if __name__ == "__main__":
    main(AioIce)
