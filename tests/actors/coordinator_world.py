"""A coordinator on virtual time, with plugin hosts that do what a test writes for them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from fake_node import view
from warpfleet.actors.coordinator import Coordinator, ObservatoryPort, RecordView
from warpfleet.actors.values import (
    CancelAttempt,
    Command,
    ConnectionRequest,
    NameWinner,
    PipeFacts,
    Report,
    Stage,
    StartAttempt,
)
from warpfleet.core.combo import AttemptOutcome, Policy, Reason, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour
from warpfleet.core.peer import PeerView
from warpfleet.plugins.loader import registrations
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, Row, StartedRow

O = AttemptOutcome  # noqa: E741
CONE = NatBehaviour(translated=True, mapping=Mapping.EIM, filtering=Filtering.APDF, udp=True)
# Behind such NATs a punch and a relay are tried: the one at once, the other after 2.5 s or when the punch has failed.
PUNCH, RELAY = "udp_punch", "turn"
SWEEP, CONNECTION = "sweep", "c1" * 16


class Telemetry:
    """Keeps the rows; raises where it is told to."""

    def __init__(self) -> None:
        self.rows: list[ConnectionRow] = []
        self.attempt_rows: list[AttemptRow] = []
        self.begun: list[StartedRow] = []
        self.broken: set[type[Row]] = set()

    async def write(self, rows: Sequence[Row]) -> dict[str, str]:
        if any(type(row) in self.broken for row in rows):
            return {SWEEP: "disk full"}
        for row in rows:
            if isinstance(row, AttemptRow):
                self.attempt_rows.append(row)
            elif isinstance(row, ConnectionRow):
                self.rows.append(row)
            elif isinstance(row, StartedRow):
                self.begun.append(row)
        return {}

    def ends(self) -> dict[str, tuple[AttemptOutcome, Reason | None]]:
        """How the attempts ended that were started."""
        return {r.plugin: (r.outcome, r.reason) for r in self.attempt_rows if r.outcome is not O.SKIPPED}


class Host:
    """A plugin's host: does with each attempt what its `script` says."""

    def __init__(self, coordinator: Coordinator, plugin: str, script: str) -> None:
        self.coordinator, self.plugin, self.script = coordinator, plugin, script
        self.commands: list[Command] = []
        self.orders: dict[str, StartAttempt] = {}
        self.begun_s: dict[str, float] = {}
        self.work: set[asyncio.Task[None]] = set()

    async def take(self, commands: list[Command]) -> None:
        self.commands += commands
        for command in commands:
            if isinstance(command, StartAttempt):
                self.orders[command.attempt_id] = command
                self.begun_s[command.attempt_id] = asyncio.get_running_loop().time()
            if self.script != "silent":
                task = asyncio.create_task(self._act(command))
                self.work.add(task)
                task.add_done_callback(self.work.discard)

    async def _act(self, command: Command) -> None:
        attempt = command.attempt_id
        if isinstance(command, StartAttempt) and self.script == "fails":
            await asyncio.sleep(1)
            await self.say(attempt, Stage.ENDED, outcome=O.FAILED, reason=Reason.NO_ANSWER)
        elif isinstance(command, StartAttempt) and self.script.startswith("wins"):
            await asyncio.sleep(1)
            await self.say(attempt, Stage.READY)
        elif isinstance(command, NameWinner) and self.script != "wins never":
            await asyncio.sleep(0.5)
            await self.won(attempt)
        elif isinstance(command, CancelAttempt):
            await self.say(attempt, Stage.ENDED, outcome=O.CANCELLED, reason=command.reason)

    async def won(self, attempt: str) -> None:
        local, remote = Endpoint("192.168.1.2", 4000), Endpoint("198.51.100.2", 5000)
        facts = PipeFacts(Transport.UDP, self.plugin == RELAY, local, remote)
        await self.say(attempt, Stage.WON, outcome=O.WON, pipe=facts)
        if self.script != "wins unmeasured":
            await asyncio.sleep(0.25)
            at_s = asyncio.get_running_loop().time()
            await self.say(attempt, Stage.MEASURED, first_byte_at_s=at_s, rtt_ms=80.0)

    async def say(self, attempt: str, stage: Stage, **facts: object) -> None:
        order = self.orders[attempt]
        report = Report(
            stage=stage,
            node=order.node,
            peer=order.peer,
            attempt_id=attempt,
            connection_id=order.connection_id,
            side=Side.INITIATOR,
            combo=order.combo,
            begun_s=self.begun_s[attempt],
            at_s=asyncio.get_running_loop().time(),
            started_at_us=order.started_at_us,
            **facts,  # type: ignore[arg-type]
        )
        await self.coordinator.report([report])

    def told(self, kind: type[Command]) -> list[Command]:
        return [command for command in self.commands if isinstance(command, kind)]


def home(name: str, ip: str) -> PeerView:
    return replace(view(name, "192.168.1.2", nat={4: CONE}, relay=True), external={4: ip})


ALICE, BOB = home("alice", "198.51.100.1"), home("bob", "198.51.100.2")
REQUEST = ConnectionRequest(
    sweep_id=SWEEP,
    connection_id=CONNECTION,
    initiator="alice",
    responder="bob",
    repeat=0,
    policy=Policy.STAGGERED,
)


class World:
    """A coordinator, its telemetry, and a host for each plugin; those without a script do not serve Alice."""

    def __init__(self, *, missing: str = "", observatory: ObservatoryPort | None = None, **scripts: str) -> None:
        self.telemetry = Telemetry()
        self.coordinator = Coordinator(self.telemetry, observatory)
        self.idle = [r.name for r in registrations() if r.name not in (*scripts, missing)]
        scripts |= dict.fromkeys(self.idle, "silent")
        self.hosts = {plugin: Host(self.coordinator, plugin, script) for plugin, script in scripts.items()}

    async def begin(self, request: ConnectionRequest = REQUEST, *, known: Sequence[PeerView] = (ALICE, BOB)) -> None:
        await self.coordinator.bind({plugin: host.take for plugin, host in self.hosts.items()})
        await self.coordinator.opted_out([(plugin, "alice") for plugin in self.idle])
        await self.know(*known)
        await self.coordinator.connect([request])

    async def know(self, *views: PeerView) -> None:
        await self.coordinator.learn({v.name: RecordView(v, time.time() + 3600) for v in views})

    async def row(self) -> ConnectionRow:
        """The one row of the one connection."""
        (row,) = await self.coordinator.finished(SWEEP, 120)
        assert await self.coordinator.finished(SWEEP, 60) == []
        if not self.telemetry.broken:
            assert self.telemetry.rows == [row]
            assert len(self.telemetry.begun) == 1
        await self.coordinator.close()
        return row
