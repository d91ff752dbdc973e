"""Warpfleet and its rivals side by side: one laboratory, one run, ratios. `make bench` runs it.

Of each pair of hosts, repeat after repeat, every contender makes one connection, one after another: a bare TCP connect
and a bare UDP exchange with a host that anybody can reach, by a path of the same delay; warpfleet's fleet with either
policy, in a cluster; `Node.open` in a program of its own; aioice and warpgate 4.0.14, each a program a host, in
environments of their own. Run it on an idle machine.
"""

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import psutil
import typer

from bench import cells, meter, table
from bench.cells import AIOICE, BARE_TCP, BARE_UDP, CONTENDERS, NODE, STAGGERED, STRICT, WARPGATE
from bench.contenders import ClusterContender, Contender, ProgramContender, Programs, of_hosts
from bench.environments import python_of
from warpfleet.cli.options import console, load_fleet, sayer
from warpfleet.cluster.control import OpenRequest
from warpfleet.cluster.session import own_cluster
from warpfleet.configs.topology import find_topology
from warpfleet.core.combo import Policy
from warpfleet.core.errors import MissingError, WarpfleetError
from warpfleet.core.pairs import choose_pairs
from warpfleet.lab import rootless
from warpfleet.lab.laboratory import Lab, laboratory

CROWD = 32
NEAR = ("near_one", "near_two")
TARGET = "open"
_IDLE_S = 3.0  # over which CPU at rest is measured
_SETTLE_S = 0.3  # four round trips: what the last contender still sends is not counted for the next
TOPOLOGY = Path(__file__).with_name("lab.yaml")
_LABORATORY = "warpfleet-bench"
_MODULES = {NODE: "bench.inline_node", AIOICE: "bench.rival_aioice", WARPGATE: "bench.rival_warpgate"}
_PIPES = (("tcp", "direct_connect"), ("udp", "udp_punch"))  # how a node gets a pipe over each transport
_say = sayer("bench")


class Bench:
    """One run in one laboratory. `tries`, `pipes` and `upkeep` are what it found."""

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

    async def run(self, repeats: int) -> None:
        """Start the contenders, measure, end them."""
        async with AsyncExitStack() as life:
            await self._start_bare(life)
            for name in _MODULES:
                if name in self._chosen:
                    await self._start_programs(name, life)
            if {STAGGERED, STRICT} & set(self._chosen):
                await self._start_cluster(life)
            idle_ms_s = await self._idle()
            for contender, pair in cells.order(self._pairs, list(self._contenders), repeats):
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
        for name, policy in ((STAGGERED, Policy.STAGGERED), (STRICT, Policy.STRICT)):
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
            name: await self._crowd_cpu_ms(name, idle_ms_s[name])
            for name in (STAGGERED, NODE, AIOICE)  # warpgate takes seconds and 32 sockets for one
            if name in self._contenders
        }
        for name, contender in self._contenders.items():
            if name in (BARE_TCP, BARE_UDP) or not contender.nodes:
                continue
            self.upkeep.append(
                cells.Upkeep(
                    contender=name,
                    nodes=contender.nodes,
                    memory_mib=meter.memory_mib(contender.processes()) / contender.nodes,
                    idle_cpu_ms_s=idle_ms_s[name],
                    crowd_cpu_ms=crowds.get(name),
                )
            )

    async def _crowd_cpu_ms(self, name: str, idle_ms_s: float) -> float | None:
        """The CPU time of one connection of the first pair while `CROWD` are in flight. None where not all worked."""
        _say(f"{CROWD} at once, {name}")
        contender = self._contenders[name]
        cpu_ms, began_s = meter.cpu_ms(contender.processes()), time.monotonic()
        connected = await contender.crowd(*self._pairs[0], CROWD)
        idle_ms = idle_ms_s * (time.monotonic() - began_s)
        cpu_ms = meter.cpu_ms(contender.processes()) - cpu_ms - idle_ms
        return cpu_ms / CROWD if connected == CROWD else None


def main(
    pairs: Annotated[
        str, typer.Option(help="all, A:B,C:D or random:N ordered pairs; left out: one of each kind.")
    ] = "",
    repeat: Annotated[int, typer.Option(min=1, help="How often each contender connects each pair.")] = 3,
    only: Annotated[str, typer.Option(help=f"Some of {', '.join(CONTENDERS[2:])}, with commas between.")] = "",
) -> None:
    """Warpfleet and its rivals side by side in one laboratory."""
    chosen = only.split(",") if only else list(CONTENDERS)
    for name in chosen:
        if name not in CONTENDERS:
            raise typer.BadParameter(f"no contender {name!r}: some of {', '.join(CONTENDERS[2:])}", param_hint="--only")
    rootless.ensure_privilege()
    topology = find_topology(str(TOPOLOGY))
    names = [host.name for host in topology.hosts if host.name not in (*NEAR, TARGET)]
    some = choose_pairs(names, pairs, random.Random(0)) if pairs else list(cells.PAIRS)
    with (
        tempfile.TemporaryDirectory() as folder,
        laboratory(topology, name=_LABORATORY, progress=_say, take_over=True) as lab,
    ):
        os.environ["XDG_STATE_HOME"] = folder  # what the user's own fleets have learned is not theirs to use
        bench = Bench(lab, some, chosen, Path(folder))
        asyncio.run(bench.run(repeat))
    table.show(bench.tries, bench.pipes, bench.upkeep, console(), crowd=CROWD)


if __name__ == "__main__":
    try:
        typer.run(main)
    except WarpfleetError as error:
        sys.exit(f"bench: {error}")
