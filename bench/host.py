"""One host of the benchmark: a program in a host's network namespace, asked on standard input, answering on standard
output, a line of JSON each. Standard library alone, since it runs in the rivals' own environments.

    {"meet": {NAME: ADDRESS, ...}}                          -> {}
    {"connect": NAME, "by": TECHNIQUE, "limit_s": SECONDS}  -> {"first_byte_ms", "how", "relayed"} or {"error"}
    {"pipe": NAME, "by": TECHNIQUE, "limit_s": SECONDS}     -> {"round_trip_ms", "throughput_mb_s", "how"} or {"error"}
    {"count": "sockets"}                                    -> {"sockets"}: opened since the start

Each request has an "id", which its answer repeats; several may be under way. The first line that it writes is
{"address": ADDRESS}: what its peers have to know. It ends with its standard input.
"""

import asyncio
import json
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, TextIO

from bench.link import Link, first_echo, round_trip_ms, throughput_mb_s

_ROUNDS = 21
_LINE_MAX_BYTES = 1 << 20


class Host(ABC):
    """What a contender can do. `settings` are those of `laboratory.settings` for this host."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.name = str(settings["name"])

    @abstractmethod
    async def open(self) -> object:
        """Get ready, and serve links that peers open; what peers have to know (JSON)."""

    async def meet(self, peers: dict[str, Any]) -> None:  # noqa: B027 - some need to know nobody beforehand
        """Learn the addresses of the peers."""

    @abstractmethod
    async def connect(self, peer: str, by: str | None) -> Link:
        """A link to a peer. OSError where there is none."""


def main(kind: type[Host]) -> None:
    """Run the host that the first argument describes, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints belongs in the log
    asyncio.run(_run(kind(json.loads(sys.argv[1])), answers))


async def _run(host: Host, answers: TextIO) -> None:
    counter = _SocketCounter()
    requests = asyncio.StreamReader(limit=_LINE_MAX_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    print(json.dumps({"address": await host.open()}), file=answers)
    under_way: set[asyncio.Task[None]] = set()
    while line := await requests.readline():
        task = asyncio.create_task(_answer(host, counter, json.loads(line), answers))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    os._exit(0)  # a library that does not let its loop end is no business of the benchmark


async def _answer(host: Host, counter: "_SocketCounter", request: dict[str, Any], answers: TextIO) -> None:
    if "count" in request:
        answer: dict[str, Any] = {"sockets": counter.opened}
    elif "meet" in request:
        await host.meet(request["meet"])
        answer = {}
    else:
        answer = await _attempt(host, request)
    print(json.dumps(answer | {"id": request["id"]}), file=answers)


async def _attempt(host: Host, request: dict[str, Any]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(request["limit_s"]):
            if "pipe" in request:
                return await _measure_pipe(host, request["pipe"], request["by"])
            return await _first_byte(host, request["connect"], request["by"])
    except TimeoutError:
        return {"error": "no answer in time"}
    except Exception as error:  # noqa: BLE001 - whatever a contender raises is how its try ended
        return {"error": f"{type(error).__name__}: {error}"}


async def _first_byte(host: Host, peer: str, by: str | None) -> dict[str, Any]:
    began_s = time.monotonic()
    link = await host.connect(peer, by)
    try:
        await first_echo(link)
        first_byte_ms = (time.monotonic() - began_s) * 1000
    finally:
        await link.close()
    return {"first_byte_ms": first_byte_ms, "how": link.how, "relayed": link.relayed}


async def _measure_pipe(host: Host, peer: str, by: str | None) -> dict[str, Any]:
    link = await host.connect(peer, by)
    round_trip = await round_trip_ms(link, _ROUNDS)
    await link.close()
    link = await host.connect(peer, by)
    throughput = await throughput_mb_s(link)
    await link.close()
    return {"round_trip_ms": round_trip, "throughput_mb_s": throughput, "how": link.how}


class _SocketCounter:
    """Counts the sockets of IP that this process opens or accepts, whoever opens them."""

    def __init__(self) -> None:
        self.opened = 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6):
            self.opened += 1
