"""The contenders as the benchmark sees them: each connects pairs of hosts, in processes of its own."""

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.cells import Ended
from bench.program import Program, ProgramFailed
from warpfleet.cluster.control import ClusterClient, SweepRequest
from warpfleet.cluster.sweep_plan import SweepPlan
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy
from warpfleet.core.plan import Pin
from warpfleet.lab.laboratory import Lab
from warpfleet.net.relay import credentials
from warpfleet.telemetry import analysis

_LIMIT_S = 60.0  # for one connection, from the start to the first byte
_PROBLEM_MAX_CHARS = 300
_WEB_PORT, _OTHER_WEB_PORT = 443, 80  # a node of the cluster has the first already; both are let out everywhere


class Contender(ABC):
    """Connects pairs of hosts."""

    @abstractmethod
    async def connect(self, initiator: str, responder: str) -> Ended:
        """One try."""

    def peer_of(self, responder: str) -> str:
        """The host that is connected to where this one was to be the responder."""
        return responder

    @abstractmethod
    async def sockets(self, initiator: str, responder: str) -> int:
        """The sockets that both hosts have opened so far."""

    @abstractmethod
    async def crowd(self, initiator: str, responder: str, count: int) -> int:
        """Many tries at once; how many of them led to a first byte."""

    @abstractmethod
    def processes(self) -> list[int]:
        """The processes, below which there may be others, that do its work."""

    @property
    @abstractmethod
    def nodes(self) -> int:
        """How many nodes they serve."""


class Programs:
    """A program of `bench.host` at each of some hosts. What does not start is in `problems`, by host."""

    def __init__(self, python: Path, module: str) -> None:
        self._python = python
        self._module = module
        self.running: dict[str, Program] = {}
        self.problems: dict[str, str] = {}

    async def start(self, lab: Lab, fleet: Fleet, hosts: Iterable[str], folder: Path) -> None:
        """Start all of them, and let them know each other. `folder` is where they may write."""
        await asyncio.gather(*(self._start(lab, fleet, host, folder / f"{self._module}-{host}") for host in hosts))
        for host in self.running:
            peers = {name: other.address for name, other in self.running.items() if name != host}
            if problem := (await self.ask(host, {"meet": peers})).get("error"):
                self.problems[host] = f"no node at {host}: {problem}"

    async def ask(self, host: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of the program at a host; its `error` where there is none."""
        try:
            return await self.running[host].ask(request)
        except ProgramFailed as failed:
            return {"error": str(failed)}

    async def pipe(self, initiator: str, responder: str, by: str | None) -> dict[str, Any]:
        """What a pipe gives: `round_trip_ms` and `throughput_mb_s`, or the `error`. `by` is the technique."""
        for host in (initiator, responder):
            if problem := self.problems.get(host):
                return {"error": problem}
        answer = await self.ask(initiator, {"pipe": responder, "by": by, "limit_s": _LIMIT_S})
        answer.pop("how", None)
        return answer

    async def end(self) -> None:
        """End all of them."""
        await asyncio.gather(*(program.end() for program in self.running.values()))

    async def _start(self, lab: Lab, fleet: Fleet, host: str, folder: Path) -> None:
        told = settings(fleet, host)
        try:
            self.running[host] = await Program.start(
                self._python, self._module, told, namespace=lab.netns(host), folder=folder
            )
        except ProgramFailed as failed:
            self.problems[host] = f"no node at {host}: {str(failed)[:_PROBLEM_MAX_CHARS]}"


class ProgramContender(Contender):
    """Programs of one kind. With `target` every initiator connects to that host, whoever was to be the responder."""

    def __init__(self, programs: Programs, *, by: str | None = None, target: str | None = None) -> None:
        self._programs = programs
        self._by = by
        self._target = target

    def peer_of(self, responder: str) -> str:
        return self._target or responder

    async def connect(self, initiator: str, responder: str) -> Ended:
        responder = self.peer_of(responder)
        for host in (initiator, responder):
            if problem := self._programs.problems.get(host):
                return Ended(error=problem)
        request = {"connect": responder, "by": self._by, "limit_s": _LIMIT_S}
        return Ended(**await self._programs.ask(initiator, request))

    async def sockets(self, initiator: str, responder: str) -> int:
        hosts = [host for host in (initiator, self.peer_of(responder)) if host in self._programs.running]
        counts = [await self._programs.ask(host, {"count": "sockets"}) for host in hosts]
        return sum(count.get("sockets", 0) for count in counts)

    async def crowd(self, initiator: str, responder: str, count: int) -> int:
        ended = await asyncio.gather(*(self.connect(initiator, responder) for _ in range(count)))
        return sum(one.first_byte_ms is not None for one in ended)

    def processes(self) -> list[int]:
        return [program.pid for program in self._programs.running.values()]

    @property
    def nodes(self) -> int:
        return len(self._programs.running)


class ClusterContender(Contender):
    """A cluster of warpfleet's own, with one policy. Each try is a sweep of one connection, read from its telemetry."""

    def __init__(self, client: ClusterClient, daemon: int, fleet: Fleet, policy: Policy, folder: Path) -> None:
        self._client = client
        self._daemon = daemon
        self._fleet = fleet
        self._policy = policy
        self._folders = (folder / f"{policy}-{number}" for number in itertools.count())
        self._sockets = 0

    async def connect(self, initiator: str, responder: str) -> Ended:
        folder = await self._sweep(initiator, responder, repeat=1, concurrency=1)
        with analysis.tables(folder) as database:
            [row] = database.execute("SELECT first_byte_ms, plugin, outcome, error FROM connections").fetchall()
            [(sockets,)] = database.execute("SELECT coalesce(sum(sockets), 0) FROM attempts").fetchall()
        self._sockets += int(sockets)
        first_byte_ms, plugin, outcome, error = row
        if first_byte_ms is None:
            return Ended(error=error or outcome)
        return Ended(first_byte_ms=first_byte_ms, how=plugin, relayed=outcome == "relayed")

    async def sockets(self, initiator: str, responder: str) -> int:
        return self._sockets

    async def crowd(self, initiator: str, responder: str, count: int) -> int:
        folder = await self._sweep(initiator, responder, repeat=count, concurrency=count)
        with analysis.tables(folder) as database:
            [(connected,)] = database.execute("SELECT count(first_byte_ms) FROM connections").fetchall()
        return int(connected)

    def processes(self) -> list[int]:
        return [self._daemon]

    @property
    def nodes(self) -> int:
        return len(self._fleet.nodes)

    async def _sweep(self, initiator: str, responder: str, *, repeat: int, concurrency: int) -> Path:
        plan = SweepPlan(pairs=f"{initiator}:{responder}", repeat=repeat, policy=self._policy, pin=Pin(), seed=0)
        folder = next(self._folders)
        request = SweepRequest(fleet=self._fleet, plan=plan, directory=folder, resume=False, concurrency=concurrency)
        await self._client.ask(request)
        return folder


def settings(fleet: Fleet, host: str) -> dict[str, Any]:
    """What a program of `bench.host` is told of the laboratory: one of each server as a rival takes it, and all of
    them as warpfleet does. The broker's port is one that a network without UDP lets out."""
    services = fleet.services
    broker = services.mqtt[-1]
    turn = {}
    for server in services.turn:
        username, password = credentials(server, time.time())
        turn[server.transport.value] = {
            "ip": server.host,
            "port": server.port,
            "username": username,
            "password": password,
            "url": server.url,
        }
    stun = [(server.ip, server.port) for server in services.stun]
    return {
        "name": host,
        "listen": [_OTHER_WEB_PORT if port == _WEB_PORT else port for port in fleet.node(host).listen],
        "broker": (broker.host, broker.port),
        "stun": stun[0],
        "stun_servers": stun,
        "turn": turn,
        "turn_transport": "tcp" if host == "udp_blocked" else "udp",
        "ntp": (services.ntp[0].host, services.ntp[0].port),
        "services": {
            "mqtt": [str(each) for each in services.mqtt],
            "stun": [str(each) for each in services.stun],
            "turn": [{key: server[key] for key in ("url", "username", "password")} for server in turn.values()],
            "ntp": [str(each) for each in services.ntp],
        },
    }


def of_hosts(fleet: Fleet, hosts: Sequence[str]) -> Fleet:
    """The part of a fleet that these hosts are."""
    return fleet.model_copy(update={"nodes": tuple(node for node in fleet.nodes if node.name in hosts)})
