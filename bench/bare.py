"""Bare sockets, the physical minimum: a TCP connect and an echo, or one exchange over UDP. Nobody is authenticated."""

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

from bench.host import Host, main
from bench.link import Answers, Link, serve

_PORT = 3478  # a port that a network which blocks UDP lets out, and that no contender listens on
_READ_MAX_BYTES = 65536


class _Bare(Link):
    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self.stream = opened.type == socket.SOCK_STREAM
        self.how = "tcp" if self.stream else "udp"

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, _READ_MAX_BYTES)

    async def close(self) -> None:
        self._socket.close()


class Bare(Host):
    """One listener for TCP, one socket for UDP. Reaches peers that anybody can reach, and no others."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self._serving: set[asyncio.Task[None]] = set()
        self._peers: dict[str, str] = {}

    async def open(self) -> str:
        listener = socket.create_server(("", _PORT))
        listener.setblocking(False)
        self._spawn(self._accept(listener))
        self._spawn(self._answer())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect(tuple(self.settings["stun"]))  # sends nothing: the route tells our own address
            return str(asking.getsockname()[0])

    async def meet(self, peers: dict[str, Any]) -> None:
        self._peers = peers

    async def connect(self, peer: str, by: str | None) -> Link:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM if by == "tcp" else socket.SOCK_DGRAM)
        opened.setblocking(False)
        if by == "tcp":
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(opened, (self._peers[peer], _PORT))
        return _Bare(opened)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(serve(_Bare(accepted)))

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        answers: defaultdict[tuple[str, int], Answers] = defaultdict(Answers)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.setblocking(False)
            opened.bind(("", _PORT))
            while True:
                data, source = await loop.sock_recvfrom(opened, _READ_MAX_BYTES)
                if answer := answers[source].take(data, time.monotonic()):
                    await loop.sock_sendto(opened, answer, source)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)


if __name__ == "__main__":
    main(Bare)
