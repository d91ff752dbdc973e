"""What is known of one connection, and the rows that say it."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from warpfleet.actors.surroundings import Surroundings
from warpfleet.actors.values import ConnectionRequest, Report, Stage, StartAttempt
from warpfleet.core.combo import AttemptOutcome, Combo, ConnectionOutcome, Phase, Reason, Side
from warpfleet.core.experience import Ended, Evidence, evidence, round_trip_of, subject_of
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Skipped, Technique
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, StartedRow


@dataclass(slots=True)
class RecordedAttempt:
    """One of the initiator's attempts; it has a row once it has ended."""

    order: StartAttempt
    phase: Phase | None  # None for an auxiliary one
    started_s: float  # after the connection began
    advice: str | None = None
    row: AttemptRow | None = None

    @property
    def combo(self) -> Combo:
        """What is attempted."""
        return self.order.combo


@dataclass(slots=True)
class RecordedPipe:
    """The pipe of the connection: the attempt that won it, and the one whose path it was to move to."""

    won: Report
    direct: Report | None = None
    moved_at_s: float | None = None
    measured: list[Report] = field(default_factory=list)  # once on each path
    lost: bool = False  # closed, or gone with its host

    @property
    def path(self) -> Report:
        """The attempt whose path it takes."""
        return self.direct if self.direct and self.moved_at_s is not None else self.won

    @property
    def moving(self) -> bool:
        """Whether it is still to move."""
        return self.direct is not None and self.moved_at_s is None and not self.lost

    @property
    def measuring(self) -> bool:
        """Whether it is still to be measured on the path that it takes."""
        return not self.lost and len(self.measured) < (1 if self.moved_at_s is None else 2)


class ConnectionRecord:
    """What one connection has come to: its attempts, by their ids, and its pipe. Times are monotonic seconds of the
    event loop; those in rows are milliseconds since the connection began."""

    def __init__(
        self, request: ConnectionRequest, techniques: Mapping[str, Technique], surroundings: Surroundings
    ) -> None:
        self._request = request
        self.attempts: dict[str, RecordedAttempt] = {}
        self.pipe: RecordedPipe | None = None
        self._techniques = techniques
        self._surroundings = surroundings
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._started_at = self._now()

    def prepare(self) -> StartedRow:
        """What is recorded before the connection begins."""
        self._started_at = self._now()
        return self._started_row()

    def begin(self) -> None:
        """The connection starts now: the durations count from here."""
        self._began_s = self._loop.time()

    @property
    def started_at_us(self) -> int:
        """When it started, in microseconds since 1970 (UTC)."""
        return int(self._started_at.timestamp() * 1_000_000)

    @property
    def elapsed_s(self) -> float:
        """How long ago it began."""
        return self._loop.time() - self._began_s

    @property
    def running(self) -> dict[str, RecordedAttempt]:
        """The attempts that have not ended, by their ids."""
        return {attempt_id: attempt for attempt_id, attempt in self.attempts.items() if attempt.row is None}

    def start(self, order: StartAttempt, phase: Phase | None, advice: str | None = None) -> None:
        """An attempt begins; one without a phase takes no part in the walk."""
        self.attempts[order.attempt_id] = RecordedAttempt(order, phase, self.elapsed_s, advice)

    def win(self, report: Report) -> AttemptRow:
        """An attempt has won the pipe, or the path that it is to move to; the attempt's row."""
        if self.pipe is None:
            self.pipe = RecordedPipe(report)
        else:
            self.pipe.direct = report
        return self.end(report)

    def end(self, report: Report) -> AttemptRow:
        """An attempt has ended; its row."""
        assert report.outcome is not None
        attempt = self.attempts[report.attempt_id]
        attempt.row = replace(
            self._attempt_row(report.attempt_id, report.combo, attempt.phase, report.outcome, report.reason),
            started_ms=self._ms(report.begun_s),
            ended_ms=self._ms(report.at_s),
            sockets=report.sockets,
            packets_sent=report.packets_sent,
            advice=attempt.advice,
        )
        return attempt.row

    def skip(self, skipped: Skipped) -> AttemptRow:
        """The row of an attempt that is not made."""
        attempt_id = self._surroundings.new_id()
        row = self._attempt_row(attempt_id, skipped.combo, skipped.phase, AttemptOutcome.SKIPPED, skipped.reason)
        return replace(row, advice=skipped.advice)

    def died(self, attempt_id: str) -> Report:
        """The end of an attempt of which nothing more is heard."""
        attempt = self.attempts[attempt_id]
        return Report(
            stage=Stage.ENDED,
            node=self._request.initiator,
            peer=self._request.responder,
            attempt_id=attempt_id,
            connection_id=self._request.connection_id,
            side=Side.INITIATOR,
            combo=attempt.combo,
            begun_s=self._began_s + attempt.started_s,
            at_s=self._loop.time(),
            started_at_us=attempt.order.started_at_us,
            outcome=AttemptOutcome.FAILED,
            reason=Reason.ACTOR_DIED,
        )

    def evidence(self, mine: PeerView, theirs: PeerView) -> list[Evidence]:
        """What the attempts of a walk that has ended teach: nothing where it has no pipe."""
        path = self.pipe.path if self.pipe else None
        rtt_ms = self._rtt_ms()
        at = self._started_at.timestamp()
        found: list[Evidence] = []
        for attempt in self.attempts.values():
            combo, row = attempt.combo, attempt.row
            if path is None or attempt.phase is None or row is None:
                continue
            requirement = self._techniques[combo.plugin].requirement
            subject = subject_of(requirement, combo, mine, theirs, self._request.realm)
            ran_ms = (row.ended_ms or 0) - (row.started_ms or 0)
            unanswered = 0 < (row.packets_sent or 0) <= (row.sockets or 0)  # a SYN each
            ended = Ended(combo, row.outcome, row.reason, ran_ms, unanswered)
            learnt = evidence(subject, ended, path.combo, rtt_ms, at) if subject else None
            found += [learnt] if learnt else []
        if path and rtt_ms is not None:
            round_trip = round_trip_of(path.combo, mine, theirs, self._request.realm)
            found += [Evidence(round_trip, True, at, rtt_ms=rtt_ms)] if round_trip else []
        return found

    def row(
        self, mine: PeerView | None, theirs: PeerView | None, reason: Reason | None, error: str = ""
    ) -> ConnectionRow:
        """The connection's row as things stand."""
        pipe = self.pipe
        path = pipe.path if pipe else None
        facts = path.pipe if path else None
        af = path.combo.af if path else (self._request.pin.af or 4)
        first_bytes_at_s = [m.first_byte_at_s for m in pipe.measured if m.first_byte_at_s] if pipe else []
        return ConnectionRow(
            **asdict(self._started_row()),
            outcome=self._outcome(reason),
            plugin=path.combo.plugin if path else None,
            phase=self.attempts[path.attempt_id].phase if path else None,
            transport=facts.transport if facts else None,
            af=path.combo.af if path else None,
            route_type=path.combo.route if path else None,
            local_endpoint=str(facts.local) if facts else None,
            remote_endpoint=str(facts.remote) if facts else None,
            connect_ms=self._ms(min([pipe.won.at_s, *first_bytes_at_s[:1]])) if pipe else None,
            first_byte_ms=self._ms(first_bytes_at_s[0]) if first_bytes_at_s else None,
            rtt_ms=self._rtt_ms(),
            upgraded_ms=self._ms(pipe.moved_at_s) if pipe and pipe.moved_at_s else None,
            initiator_nat=mine.behaviour(af).alias if mine else None,
            responder_nat=theirs.behaviour(af).alias if theirs else None,
            error=error or self._error(reason),
            reason=reason,
        )

    def _started_row(self) -> StartedRow:
        r = self._request
        return StartedRow(
            sweep_id=r.sweep_id,
            connection_id=r.connection_id,
            initiator=r.initiator,
            responder=r.responder,
            repeat=r.repeat,
            policy=r.policy,
            started_at=self._started_at,
        )

    def _attempt_row(
        self, attempt_id: str, combo: Combo, phase: Phase | None, outcome: AttemptOutcome, reason: Reason | None
    ) -> AttemptRow:
        return AttemptRow(
            sweep_id=self._request.sweep_id,
            connection_id=self._request.connection_id,
            attempt_id=attempt_id,
            plugin=combo.plugin,
            phase=phase,
            transport=self._techniques[combo.plugin].transport,
            af=combo.af,
            route_type=combo.route,
            side=Side.INITIATOR,
            outcome=outcome,
            reason=reason,
        )

    def _rtt_ms(self) -> float | None:
        """The round trip on the path that the pipe takes."""
        return self.pipe.measured[-1].rtt_ms if self.pipe and self.pipe.measured else None

    def _outcome(self, reason: Reason | None) -> ConnectionOutcome:
        if self.pipe and (facts := self.pipe.path.pipe):
            return ConnectionOutcome.RELAYED if facts.relayed else ConnectionOutcome.DIRECT
        if reason in (Reason.STOPPED, Reason.INTERRUPTED):
            return ConnectionOutcome.CANCELLED
        if reason in (Reason.INTERNAL, Reason.ACTOR_DIED, Reason.UNTRUSTED):
            return ConnectionOutcome.ERROR
        return ConnectionOutcome.FAILED

    def _error(self, reason: Reason | None) -> str | None:
        if reason is None:
            return None
        ends = [f"{a.combo}: {a.row.reason}" for a in self.attempts.values() if a.row and a.row.reason]
        return f"{reason}" + (f" ({'; '.join(ends)})" if ends else "")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._surroundings.now_s(), UTC)

    def _ms(self, at_s: float) -> float:
        return (at_s - self._began_s) * 1000
