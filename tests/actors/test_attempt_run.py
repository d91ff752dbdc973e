"""How an attempt ends: every outcome, its reason, and what the plugin's `result` says."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fake_network import FakeUdp, Internet
from fake_node import ALICE, ATTEMPT_ID, BOB, CONNECTION_ID, STARTED_AT_US, node
from sealed import tls_pipes
from virtual_time import now_s, virtual_time
from warpfleet.actors.attempt_run import AttemptRun
from warpfleet.actors.budgets import Budgets
from warpfleet.actors.values import OutgoingSignal, Report, Stage
from warpfleet.core.combo import AttemptOutcome, Combo, Reason, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.core.targets import USUAL_ALLOWANCE
from warpfleet.net.handshake import ProofFailed
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Pipe, RelayRefused, Unreachable
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.proving import PeerClosed
from warpfleet.net.quic import DatagramPath
from warpfleet.plugins.address_messages import GetAddr
from warpfleet.plugins.attempt_context import AttemptContext, AttemptSpec, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.attempt_messages import Abandon
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.inbox import InboundStream
from warpfleet.plugins.room import Room

O = AttemptOutcome  # noqa: E741
Body = Callable[[AttemptContext], Awaitable[Won | None]]


def running(body: Body) -> type[Strategy]:
    class Fake(Strategy):
        name = "fake"
        transport = Transport.TCP
        requirement = Requirement.SIGNAL
        routes = (RouteType.EXT,)

        async def run(self) -> Won | None:
            return await body(self.context)

    return Fake


class Bench:
    """One attempt with everything around it."""

    def __init__(self, body: Body, side: Side = Side.INITIATOR, *, timeout_s: float = 10) -> None:
        self.internet = Internet()
        self.reports: list[Report] = []
        self.posted: list[OutgoingSignal] = []
        self.made: list[Strategy] = []
        self.got: list[Pipe] = []
        self.paths: list[ProvedPath] = []
        self.using: Callable[[], Awaitable[None]] | None = None
        opening = None
        if side is Side.RESPONDER:
            opening = GetAddr(attempt_id=ATTEMPT_ID, af=4, route=RouteType.EXT, started_at_us=STARTED_AT_US)
        spec = AttemptSpec(
            attempt_id=ATTEMPT_ID,
            connection_id=CONNECTION_ID,
            started_at_us=STARTED_AT_US,
            side=side,
            combo=Combo("fake", 4, RouteType.EXT),
            timeout_s=timeout_s,
            opening=opening,
        )
        self.run = AttemptRun(
            spec,
            node(ALICE, self.internet, "203.0.113.1"),  # type: ignore[arg-type]
            BOB.public,
            (RouteType.EXT,),
            Budgets(USUAL_ALLOWANCE),
            report=self.reports.append,
            post=self.posted.append,
            on_pipe=self._on_pipe,
            on_path=self._on_path,
            room=Room(),
        )
        self._strategy = running(body)

    async def _on_pipe(self, _run: AttemptRun, pipe: Pipe) -> None:
        self.got.append(pipe)
        if self.using:
            await self.using()

    def _on_path(self, _run: AttemptRun, path: ProvedPath) -> None:
        self.paths.append(path)

    def factory(self, context: AttemptContext) -> Strategy:
        self.made.append(self._strategy(context))
        return self.made[-1]

    async def end(self) -> tuple[AttemptOutcome | None, Reason | None]:
        async with asyncio.timeout(60):
            await self.run.start(self.factory)
        return self.last()

    def last(self) -> tuple[AttemptOutcome | None, Reason | None]:
        assert [r.outcome is not None for r in self.reports].count(True) == 1, "one end"
        return self.reports[-1].outcome, self.reports[-1].reason

    def stages(self) -> list[Stage]:
        return [report.stage for report in self.reports]

    async def pipe(self) -> Pipe:
        near, far = self.internet.stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2))
        pipe, _ = await tls_pipes(near, far)
        return pipe


def raising(error: BaseException) -> Body:
    async def body(_context: AttemptContext) -> None:
        raise error

    return body


async def forever(_context: AttemptContext) -> None:
    await asyncio.Event().wait()


@virtual_time
@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (AttemptFailed(Reason.STUN_FAILED), O.FAILED, Reason.STUN_FAILED),
        (ConnectRefused("no"), O.FAILED, Reason.REFUSED),
        (Unreachable("no"), O.FAILED, Reason.UNREACHABLE),
        (PeerClosed("no"), O.FAILED, Reason.PEER_CLOSED),
        (ConnectionLost("no"), O.FAILED, Reason.RESET),
        (ProofFailed("no"), O.FAILED, Reason.PROOF_FAILED),
        (RelayRefused("no"), O.FAILED, Reason.RELAY_REFUSED),
        (TimeoutError(), O.TIMEOUT, Reason.NO_ANSWER),
        (KeyError("surprise"), O.FAILED, Reason.INTERNAL),
    ],
)
async def test_what_a_plugin_raises_decides_the_reason(
    error: Exception, outcome: AttemptOutcome, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(raising(error))
    assert await bench.end() == (outcome, reason)
    assert bench.made[0].result.result() is None
    assert ("plugin fake raised" in caplog.text) == (reason is Reason.INTERNAL)


@virtual_time
async def test_an_attempt_that_outlives_its_timeout_is_cancelled() -> None:
    bench = Bench(forever, timeout_s=7)
    assert await bench.end() == (O.TIMEOUT, Reason.NO_ANSWER)
    assert now_s() == pytest.approx(7)
    assert bench.made[0].result.result() is None


@virtual_time
async def test_a_plugin_that_cannot_even_be_made_fails_like_any_other() -> None:
    bench = Bench(forever)
    bench.factory = lambda context: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert await bench.end() == (O.FAILED, Reason.INTERNAL)


@virtual_time
async def test_cancelled_before_its_first_step_it_still_says_how_it_ended() -> None:
    bench = Bench(forever)
    task = bench.run.start(bench.factory)
    bench.run.cancel(Reason.STOPPED)
    await task
    assert bench.last() == (O.CANCELLED, Reason.STOPPED)


@virtual_time
@pytest.mark.parametrize(
    ("ready", "reason", "outcome"),
    [
        (False, Reason.OTHER_PIPE_WON, O.CANCELLED),
        (True, Reason.OTHER_PIPE_WON, O.LOST),
        (True, Reason.STOPPED, O.CANCELLED),
        (True, Reason.DEADLINE, O.CANCELLED),
        (False, Reason.PEER_CLOSED, O.CANCELLED),
    ],
)
async def test_a_proved_pipe_that_is_not_needed_is_lost(ready: bool, reason: Reason, outcome: AttemptOutcome) -> None:
    async def body(context: AttemptContext) -> None:
        if ready:
            await context.claim()
        await asyncio.Event().wait()

    bench = Bench(body)
    task = bench.run.start(bench.factory)
    await asyncio.sleep(1)
    assert (Stage.READY in bench.stages()) == ready
    bench.run.cancel(reason)
    bench.run.cancel(Reason.INTERNAL)
    await task
    assert bench.last() == (outcome, reason)


@virtual_time
async def test_a_named_pipe_wins_and_is_used() -> None:
    async def body(context: AttemptContext) -> Pipe:
        await context.claim()
        return pipe

    bench = Bench(body)
    pipe = await bench.pipe()
    asyncio.get_running_loop().call_later(2, bench.run.name_winner, None)
    assert await bench.end() == (O.WON, None)
    assert bench.stages() == [Stage.READY, Stage.WON]
    assert bench.got == [pipe]
    assert bench.made[0].result.result() is pipe
    facts = bench.reports[-1].pipe
    assert facts is not None
    assert (facts.transport, facts.relayed, facts.remote) == (Transport.TCP, False, Endpoint("203.0.113.2", 2))


@virtual_time
async def test_a_pipe_that_nobody_named_is_closed_and_fails() -> None:
    async def body(_context: AttemptContext) -> Pipe:
        return pipe

    bench = Bench(body)
    pipe = await bench.pipe()
    assert await bench.end() == (O.FAILED, Reason.INTERNAL)
    assert bench.got == []
    assert bench.internet.streams[0].closed


@virtual_time
async def test_named_the_agreement_has_three_seconds() -> None:
    async def body(context: AttemptContext) -> None:
        await context.claim()
        await asyncio.Event().wait()

    bench = Bench(body, timeout_s=30)
    asyncio.get_running_loop().call_later(2, bench.run.name_winner, None)
    assert await bench.end() == (O.TIMEOUT, Reason.NO_ANSWER)
    assert now_s() == pytest.approx(5)


@virtual_time
async def test_named_too_late_changes_nothing() -> None:
    async def body(context: AttemptContext) -> None:
        try:
            await context.claim()
        finally:
            await asyncio.sleep(1)  # tidies up after its timeout

    bench = Bench(body, timeout_s=2)
    asyncio.get_running_loop().call_later(2.5, bench.run.name_winner, None)
    assert await bench.end() == (O.TIMEOUT, Reason.NO_ANSWER)
    bench.run.name_winner(None)


@virtual_time
async def test_a_won_pipe_is_closed_when_its_attempt_is_cancelled() -> None:
    async def body(context: AttemptContext) -> Pipe:
        await context.claim()
        return pipe

    bench = Bench(body)
    pipe = await bench.pipe()
    bench.using = lambda: forever(bench.run.context)  # type: ignore[assignment]
    bench.run.name_winner(None)
    task = bench.run.start(bench.factory)
    await asyncio.sleep(1)
    bench.run.cancel(Reason.STOPPED)
    await task
    assert bench.internet.streams[0].closed
    assert bench.last() == (O.WON, None)


@virtual_time
@pytest.mark.parametrize("agrees", [True, False])
async def test_a_pipe_is_in_use_at_once_but_won_only_when_its_peer_has_agreed(
    agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(context: AttemptContext) -> Pipe:
        await context.claim()
        return pipe

    async def agreed() -> None:
        await asyncio.sleep(1)
        if not agrees:
            raise ConnectionLost("the peer did not agree")

    bench = Bench(body)
    pipe = await bench.pipe()
    monkeypatch.setattr(pipe, "agreed", agreed)
    monkeypatch.setattr(type(pipe), "provisional", True)
    bench.using = lambda: forever(bench.run.context)  # type: ignore[assignment]
    bench.run.name_winner(None)
    task = bench.run.start(bench.factory)
    await asyncio.sleep(0.5)
    assert (bench.got, bench.stages()) == ([pipe], [Stage.READY])
    await asyncio.sleep(1)
    assert bench.last() == ((O.WON, None) if agrees else (O.FAILED, Reason.RESET))
    bench.run.cancel(Reason.STOPPED)
    await task
    assert bench.internet.streams[0].closed
    assert bench.made[0].result.result() is (pipe if agrees else None)


@virtual_time
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AttemptFailed(Reason.STUN_FAILED), True),
        (TimeoutError(), True),
        (PeerClosed("no"), False),
        (AttemptFailed(Reason.PEER_UNAVAILABLE), False),
    ],
)
async def test_the_peer_is_told_unless_it_knows(error: Exception, told: bool) -> None:
    bench = Bench(raising(error), Side.RESPONDER)
    await bench.end()
    assert bench.stages() == [Stage.OPENED, Stage.ENDED]
    assert [type(signal.message) for signal in bench.posted] == [Abandon] * told


@virtual_time
async def test_a_peer_that_never_heard_of_the_attempt_is_not_told_of_its_end() -> None:
    bench = Bench(raising(TimeoutError()))
    await bench.end()
    assert bench.posted == []


@virtual_time
async def test_streams_that_nobody_took_are_closed() -> None:
    async def body(context: AttemptContext) -> None:
        near, _ = bench.internet.stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2))
        await near.write(b"x")
        context.inbox.put_stream(InboundStream(near, b""))

    bench = Bench(body)
    assert await bench.end() == (O.LOST, Reason.REFRESHED)
    assert bench.internet.streams[0].closed
    assert bench.reports[-1].packets_sent == 1, "what was handed to the attempt is counted"


@virtual_time
async def test_where_another_plugins_pipe_is_to_move_the_path_is_handed_on_and_the_attempt_is_over() -> None:
    async def body(context: AttemptContext) -> ProvedPath:
        moves = await context.claim()
        assert moves == "turn"
        return ProvedPath(moves, CONNECTION_ID, "bob", Side.INITIATOR, way)

    bench = Bench(body)
    way = DatagramPath(FakeUdp(bench.internet, Endpoint("203.0.113.1", 7)), Endpoint("203.0.113.2", 8))
    bench.run.name_winner("turn")
    assert await bench.end() == (O.WON, None)
    assert ([path.way for path in bench.paths], bench.got) == ([way], [])
    facts = bench.reports[-1].pipe
    assert facts is not None
    assert (facts.transport, facts.relayed, facts.remote) == (Transport.UDP, False, way.remote)
