"""A simulated laboratory: a topology, the roles of every host, and the connections between them, on virtual time."""

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, Self, TypeVar

from warpfleet.actors.surroundings import Surroundings
from warpfleet.actors.values import ConnectionRequest, NodeSpec, Use
from warpfleet.configs.topology import HostSpec, Topology
from warpfleet.core.combo import Policy, RouteType, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.identity import Identity
from warpfleet.core.peer import AddressFamily, PeerView
from warpfleet.core.plan import Pin
from warpfleet.lab.servers import STUN_PORT, TURN_ONE, TURN_TWO, V6
from warpfleet.lab.sim.network import Services, SimNetwork
from warpfleet.lab.sim.node import SimNode
from warpfleet.lab.sim.signalling import Signalling
from warpfleet.lab.sim.terrain import Terrain
from warpfleet.lab.sim.turn import TurnServer
from warpfleet.lab.sim.virtual_time import START_S, VirtualTimeLoop
from warpfleet.net.interfaces import Pipe
from warpfleet.net.stunserver import StunServer
from warpfleet.net.vantage import Vantage
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, Row, StartedRow

T = TypeVar("T")

EPOCH_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""The time of day when a world begins."""
_OTHER_STUN_PORT = 3479  # RFC 5780 section 7.4: the alternate port
_TURN_TCP_PORT = 443  # beside STUN over TCP on the registered port; networks that block the rest let it out
_SETTLED_S = 20.0  # both sides of every attempt have ended, the responder's by its own timeout of 15 s


class Rows:
    """The telemetry of a world: the rows of each table, in the order in which they were written."""

    def __init__(self) -> None:
        self.connections_started: list[StartedRow] = []
        self.connections_ended: list[ConnectionRow] = []
        self.attempts_ended: list[AttemptRow] = []

    async def write(self, rows: Sequence[Row]) -> dict[str, str]:
        """Take some rows."""
        for row in rows:
            if isinstance(row, AttemptRow):
                self.attempts_ended.append(row)
            elif isinstance(row, ConnectionRow):
                self.connections_ended.append(row)
            elif isinstance(row, StartedRow):
                self.connections_started.append(row)
        return {}


class World:
    """The hosts of a topology on one simulated internet. Use it as a context manager; what it does takes no real time.

    Signals take the way of the hosts' lines and of the broker's, and `signal_loss` of their transmissions are lost.
    `skew_s` has how far the clocks of hosts are ahead. Where it `holds`, pipes are not measured: each node's last one
    is in `pipes`. Equal arguments give equal rows.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        seed: int = 0,
        signal_loss: float = 0.0,
        skew_s: Mapping[str, float] | None = None,
        holds: bool = False,
    ) -> None:
        self.rows = Rows()
        self.nodes: dict[str, SimNode] = {}
        self.pipes: dict[str, Pipe] = {}
        self._topology = topology
        self._seed = seed
        self._skew_s = skew_s or {}
        self._holds = holds
        self._terrain = Terrain(topology, seed)
        broker_delay_s = topology.broker_delay_ms / 1000
        self._signalling = Signalling(loss=signal_loss, broker_delay_s=broker_delay_s, rng=random.Random(seed))
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self._serving: list[asyncio.Task[None]] = []
        self._stun: list[StunServer] = []
        self._connections = 0

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self._close())
        finally:
            self._runner.__exit__(kind, error, trace)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of one's own in this world, until it ends."""
        return self._runner.run(work)

    def network(self, host: str) -> SimNetwork:
        """A host's network."""
        chance = random.Random(f"{self._seed} network of {host}").random
        return SimNetwork(self._terrain.hosts[host], _services(), chance)

    def connect(
        self,
        initiator: str,
        responder: str,
        *,
        policy: Policy = Policy.STAGGERED,
        only: str | None = None,
        af: AddressFamily | None = None,
        route: RouteType | None = None,
    ) -> ConnectionRow:
        """Connect an ordered pair, and let both ends come to rest; the connection's row. `only`, `af` and `route` pin.

        The rows of its attempts are in `rows`.
        """
        self._connections += 1
        request = ConnectionRequest(
            sweep_id="simulated",
            connection_id=f"{self._connections:032x}",
            initiator=initiator,
            responder=responder,
            repeat=0,
            policy=policy,
            pin=Pin(only, af, route),
            use=Use.HOLD if self._holds else Use.MEASURE,
        )
        row = self.run(self.nodes[initiator].connect(request))
        self.wait(_SETTLED_S)
        return row

    def cut(self, one: str, other: str) -> None:
        """Let no more packets pass between the external IPv4 addresses of two hosts; what is relayed still does."""
        self._terrain.internet.cut.add(frozenset(self.nodes[name].view.external[4] for name in (one, other)))

    def mend(self) -> None:
        """Let all packets pass again."""
        self._terrain.internet.cut.clear()

    def wait(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.run(asyncio.sleep(seconds))

    async def _open(self) -> None:
        await self._serve()
        for spec in self._topology.hosts:
            self.nodes[spec.name] = self._node(spec)
        roster = [node.spec.identity.public for node in self.nodes.values()]
        opening = [
            node.open(self._signalling, self._terrain.delays_s[name], roster) for name, node in self.nodes.items()
        ]
        await asyncio.gather(*opening)
        views = {name: node.view for name, node in self.nodes.items()}
        for node in self.nodes.values():
            await node.learn(views)

    async def _close(self) -> None:
        for node in self.nodes.values():
            await node.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for server in self._stun:
            await server.close()

    async def _serve(self) -> None:
        host = self._terrain.servers
        turn = TurnServer(host)
        for each in (str, V6.__getitem__):
            ips = [each(ip) for ip in (TURN_ONE, TURN_TWO)]
            grid = [[host.open_udp(Endpoint(ip, port)) for port in (STUN_PORT, _OTHER_STUN_PORT)] for ip in ips]
            listeners = [host.tcp.listen(Endpoint(ip, STUN_PORT), shared=False) for ip in ips]
            self._stun.append(StunServer(grid, listeners))
            turn.share(grid[0][0])
        over_tcp = host.tcp.listen(Endpoint(TURN_ONE, _TURN_TCP_PORT), shared=False)
        self._serving.append(asyncio.create_task(turn.serve(over_tcp)))

    def _node(self, host: HostSpec) -> SimNode:
        chance = random.Random(f"{self._seed} roles of {host.name}")
        skew_s = self._skew_s.get(host.name, 0.0)
        loop = asyncio.get_running_loop()
        surroundings = Surroundings(
            now_s=lambda: EPOCH_S + loop.time() - START_S + skew_s, random_bytes=chance.randbytes
        )
        spec = NodeSpec(
            identity=Identity.from_seed(host.name, sha256(f"{self._seed} {host.name}".encode()).digest()),
            vantage=Vantage(),
            listen=host.listen or ((443, 0) if host.public else (0,)),
            brokers=(),
            stun=_services().stun,
            turn=(),
            ntp=(),
        )
        return SimNode(
            spec,
            self.network(host.name),
            surroundings,
            self.rows,
            machine=host.beside or host.name,
            on_pipe=self._hold if self._holds else None,
            record_of=self._record_of,
            publish=self._publish,
        )

    def _hold(self, node: str, _connection_id: str, _side: Side, pipe: Pipe) -> None:
        self.pipes[node] = pipe

    async def _publish(self, name: str, view: PeerView) -> None:
        for node in self.nodes.values():
            await node.learn({name: view})

    def _record_of(self, name: str) -> PeerView:
        return self.nodes[name].view


def _services() -> Services:
    both = (TURN_ONE, TURN_TWO)
    stun = tuple(Endpoint(ip, STUN_PORT) for ip in (*both, *(V6[ip] for ip in both)))
    return Services(stun, turn_udp=(stun[0],), turn_tcp=(Endpoint(TURN_ONE, _TURN_TCP_PORT),))
