"""Warpfleet and its rivals in one laboratory, measured one after another at each pair of hosts."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from bench import cells, meter
from bench.cells import AIOICE, BARE_TCP, BARE_UDP, CONTENDERS, NODE, RELAY_FIRST, STAGGERED, STRICT, WARPGATE
from bench.contenders import ClusterContender, Contender, ProgramContender, Programs, of_hosts
from bench.environments import python_of
from warpfleet.cli.options import load_fleet, sayer
from warpfleet.cluster.control import OpenRequest
from warpfleet.cluster.session import own_cluster
from warpfleet.core.combo import Policy
from warpfleet.core.errors import MissingError
from warpfleet.lab.laboratory import Lab

TOPOLOGY = Path(__file__).with_name("lab.yaml")
TARGET, NEAR = "open", ("near_one", "near_two")  # hosts of that laboratory which are no contender's at a pair
CROWD = 32
_CROWDED = 2  # pairs: the first two of a default run are direct, one over TCP and one over UDP
_POLICIES = {STAGGERED: Policy.STAGGERED, STRICT: Policy.STRICT, RELAY_FIRST: Policy.RELAY_FIRST}
_IDLE_S = 3.0  # over which CPU at rest is measured
_SETTLE_S = 0.3  # four round trips: what the last contender still sends is not counted for the next
_MODULES = {NODE: "bench.inline_node", AIOICE: "bench.rival_aioice", WARPGATE: "bench.rival_warpgate"}
_PIPES = (("tcp", "direct_connect"), ("udp", "udp_punch"))  # how a node gets a pipe over each transport
_say = sayer("bench")


class Comparison:
    """`tries`, `pipes` and `upkeep` are what it found. InputError, MissingError where it cannot start."""

    def __init__(self, lab: Lab, pairs: Sequence[tuple[str, str]], chosen: Sequence[str], folder: Path) -> None:
        self.tries: list[cells.Try] = []
        self.pipes: list[cells.PipeSpeed] = []
        self.upkeep: list[cells.Upkeep] = []
        self._lab = lab
        self._pairs = pairs
        self._chosen = chosen
        self._folder = folder
        self._fleet = load_fleet(lab.fleet_path)
        self._hosts = list(dict.fromkeys(host for pair in pairs for host in pair))
        self._contenders: dict[str, Contender] = {}
        self._programs: dict[str, Programs] = {}

    @property
    def crowded(self) -> Sequence[tuple[str, str]]:
        """The pairs of which many connections are made at once."""
        return self._pairs[:_CROWDED]

    async def run(self, repeats: int) -> None:
        """Start the contenders, measure, end them."""
        async with AsyncExitStack() as life:
            await self._start_bare(life)
            for name in _MODULES:
                if name in self._chosen:
                    await self._start_programs(name, life)
            if _POLICIES.keys() & set(self._chosen):
                await self._start_cluster(life)
            running = [name for name in CONTENDERS if name in self._contenders]
            idle_ms_s = await self._idle()
            for contender, pair in cells.order(self._pairs, running, repeats):
                if not cells.too_slow(self.tries, contender, pair):
                    self.tries.append(await self._try(contender, *pair, idle_ms_s[contender]))
            await self._measure_pipes()
            await self._measure_upkeep(idle_ms_s)

    async def _start_bare(self, life: AsyncExitStack) -> None:
        bare = await self._started(Programs(Path(sys.executable), "bench.bare"), [*self._hosts, TARGET, *NEAR], life)
        for name, by in ((BARE_TCP, "tcp"), (BARE_UDP, "udp")):
            self._contenders[name] = ProgramContender(bare, by=by, target=TARGET)
        self._programs[BARE_TCP] = bare

    async def _start_programs(self, name: str, life: AsyncExitStack) -> None:
        _say(f"starting {name}")
        hosts = self._hosts if name == WARPGATE else [*self._hosts, *NEAR]
        try:
            python = Path(sys.executable) if name == NODE else await asyncio.to_thread(python_of, name)
        except MissingError as missing:
            programs = Programs(Path(), _MODULES[name])
            programs.problems = dict.fromkeys(hosts, f"cannot be installed: {missing}")
        else:
            programs = await self._started(Programs(python, _MODULES[name]), hosts, life)
        self._programs[name] = programs
        self._contenders[name] = ProgramContender(programs)

    async def _started(self, programs: Programs, hosts: Sequence[str], life: AsyncExitStack) -> Programs:
        life.push_async_callback(programs.end)
        await programs.start(self._lab, self._fleet, hosts, self._folder)
        for problem in programs.problems.values():
            _say(problem)
        return programs

    async def _start_cluster(self, life: AsyncExitStack) -> None:
        fleet = of_hosts(self._fleet, self._hosts)
        before = {child.pid for child in psutil.Process().children()}
        client = await life.enter_async_context(own_cluster(fleet, _say))
        [daemon] = [child.pid for child in psutil.Process().children() if child.pid not in before]
        await client.ask(OpenRequest(fleet))
        for name, policy in _POLICIES.items():
            if name in self._chosen:
                self._contenders[name] = ClusterContender(client, daemon, fleet, policy, self._folder)

    async def _idle(self) -> dict[str, float]:
        """The CPU time that each contender takes while nobody asks it for anything, in ms a second."""
        began = {name: meter.cpu_ms(contender.processes()) for name, contender in self._contenders.items()}
        await asyncio.sleep(_IDLE_S)
        return {name: (meter.cpu_ms(self._contenders[name].processes()) - ms) / _IDLE_S for name, ms in began.items()}

    async def _try(self, name: str, initiator: str, responder: str, idle_ms_s: float) -> cells.Try:
        contender = self._contenders[name]
        places = [self._lab.netns(host) for host in (initiator, contender.peer_of(responder))]
        sockets = await contender.sockets(initiator, responder)
        await asyncio.sleep(_SETTLE_S)
        cpu_ms, packets, began_s = meter.cpu_ms(contender.processes()), meter.packets_sent(places), time.monotonic()
        ended = await contender.connect(initiator, responder)
        took_s = time.monotonic() - began_s
        cpu_ms, packets = meter.cpu_ms(contender.processes()) - cpu_ms, meter.packets_sent(places) - packets
        found = cells.Try(
            contender=name,
            initiator=initiator,
            responder=responder,
            ended=ended,
            took_ms=took_s * 1000,
            packets=packets,
            sockets=await contender.sockets(initiator, responder) - sockets,
            cpu_ms=max(cpu_ms - idle_ms_s * took_s, 0.0),
        )
        what = f"{ended.how} in {ended.first_byte_ms:,.0f} ms" if ended.first_byte_ms else ended.error
        _say(f"{initiator} -> {responder}, {name}: {what}" + f" (took {took_s:.0f} s)" * (took_s >= 1))
        return found

    async def _measure_pipes(self) -> None:
        _say("pipes")
        for transport, plugin in _PIPES:
            for name, programs in self._programs.items():
                if name == WARPGATE or (name == AIOICE and transport == "tcp"):
                    continue
                by = {BARE_TCP: transport, NODE: plugin, AIOICE: None}[name]
                found = await programs.pipe(*NEAR, by)
                shown = f"bare {transport}" if name == BARE_TCP else name
                self.pipes.append(cells.PipeSpeed(contender=shown, transport=transport, **found))

    async def _measure_upkeep(self, idle_ms_s: dict[str, float]) -> None:
        """Memory is read last, with what every contender has kept from its connections."""
        crowds = {
            name: tuple([await self._crowd_cpu_ms(name, pair, idle_ms_s[name]) for pair in self.crowded])
            for name in (STAGGERED, NODE, AIOICE)  # warpgate takes seconds and 32 sockets for one
            if name in self._contenders
        }
        for name in (*_POLICIES, NODE, AIOICE, WARPGATE):
            contender = self._contenders.get(name)
            if contender is None or not contender.nodes:
                continue
            self.upkeep.append(
                cells.Upkeep(
                    contender=name,
                    nodes=contender.nodes,
                    memory_mib=meter.memory_mib(contender.processes()) / contender.nodes,
                    idle_cpu_ms_s=idle_ms_s[name],
                    crowd_cpu_ms=crowds.get(name, (None,) * len(self.crowded)),
                )
            )

    async def _crowd_cpu_ms(self, name: str, pair: tuple[str, str], idle_ms_s: float) -> float | None:
        """The CPU time of one connection while `CROWD` are in flight. None where not all worked."""
        _say(f"{CROWD} at once, {name}")
        contender = self._contenders[name]
        cpu_ms, began_s = meter.cpu_ms(contender.processes()), time.monotonic()
        connected = await contender.crowd(*pair, CROWD)
        idle_ms = idle_ms_s * (time.monotonic() - began_s)
        cpu_ms = meter.cpu_ms(contender.processes()) - cpu_ms - idle_ms
        return cpu_ms / CROWD if connected == CROWD else None
