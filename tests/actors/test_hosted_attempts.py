"""Attempts in a plugin host: what they share, what they see, and how they end."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from plugin_bench import ORDER, Ask, Bench, Fake, signal

from fake_node import ATTEMPT_ID, HEAD, STARTED_AT_US
from sealed import tls_pipes
from virtual_time import now_s, virtual_time
from warpfleet.actors.values import CancelAttempt, NameWinner, StartAttempt
from warpfleet.core.combo import AttemptOutcome, Reason, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.peer import PeerView
from warpfleet.core.targets import Budget
from warpfleet.net import descriptors
from warpfleet.net.handshake import Wishes
from warpfleet.net.interfaces import Pipe
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.room import MAX_SOCKETS

pytestmark = pytest.mark.usefixtures("fake_plugin")


@virtual_time
@pytest.mark.parametrize(
    ("order", "reason"),
    [(replace(ORDER, node="carol"), Reason.OPTED_OUT), (replace(ORDER, peer="mallory"), Reason.UNTRUSTED)],
)
async def test_what_cannot_be_started_is_reported_at_once(order: StartAttempt, reason: Reason) -> None:
    bench = Bench()
    host = await bench.open()
    await host.command([order])
    await asyncio.sleep(0.1)
    assert [(r.outcome, r.reason) for r in bench.reports] == [(AttemptOutcome.FAILED, reason)]
    await host.close()


@virtual_time
async def test_started_and_cancelled_in_one_batch_it_still_says_how_it_ended() -> None:
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER, CancelAttempt("alice", ATTEMPT_ID, Reason.OTHER_PIPE_WON)])
    await asyncio.sleep(0.1)
    assert bench.ends() == [("alice", AttemptOutcome.CANCELLED, Reason.OTHER_PIPE_WON)]
    await host.close()


@virtual_time
async def test_attempts_of_one_host_share_its_room_for_sockets() -> None:
    taken = 0

    async def body(context: AttemptContext) -> None:
        nonlocal taken
        async with context.room.take(MAX_SOCKETS // 2, context.attempt_id):
            taken += 1
            await asyncio.Event().wait()

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    orders = [replace(ORDER, attempt_id=f"{number:032x}", timeout_s=number + 1) for number in range(5)]
    await host.command(orders)
    await asyncio.sleep(0.5)
    at_once = 2 if descriptors.limit() >= 2 * MAX_SOCKETS else 1
    assert taken == at_once
    await asyncio.sleep(1)
    assert bench.ends() == [("alice", AttemptOutcome.TIMEOUT, Reason.NO_ANSWER)]
    assert taken == at_once + 1
    await host.close()


@virtual_time
async def test_attempts_with_one_peer_share_a_budget_also_one_after_the_other() -> None:
    budgets: list[tuple[str, Budget, Budget]] = []

    async def body(context: AttemptContext) -> None:
        network: Any = context.network
        budgets.append((context.node.name, network._budget, network._towards("203.0.113.9")))

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    for number in range(3):
        order = replace(ORDER, attempt_id=f"{number:032x}")
        await host.command([order if number < 2 else replace(order, node="bob", peer="alice")])
        await asyncio.sleep(0.1)
    await host.close()
    assert [name for name, *_ in budgets] == ["alice", "alice", "bob"]
    for first, second, third in list(zip(*budgets, strict=True))[1:]:
        assert first is second
        assert third is not first


@virtual_time
async def test_plugins_see_the_clock_as_ntp_corrects_it() -> None:
    seen_us: list[int] = []
    began_us: list[int] = []

    async def body(context: AttemptContext) -> None:
        seen_us.append(context.node.now_us())
        began_us.append(context.started_at_us)

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await asyncio.sleep(0.1)
    await host.take_views({"alice": PeerView(name="alice", machine="")}, 3600.0)
    await host.command([replace(ORDER, attempt_id="a1" * 16)])
    await asyncio.sleep(0.1)
    await host.close()
    [before_us, after_us] = seen_us
    assert before_us == pytest.approx(time.time_ns() // 1000, abs=60_000_000)
    assert after_us - before_us == pytest.approx(3_600_000_000, abs=60_000_000)
    assert began_us == [STARTED_AT_US, STARTED_AT_US + 3_600_000_000], "a peer holds it against its own clock"
    assert {report.started_at_us for report in bench.reports} == {STARTED_AT_US}, "rows are by the machine's"


@virtual_time
async def test_both_sides_of_one_attempt_may_live_here_and_both_pipes_are_held() -> None:
    async def body(context: AttemptContext) -> Pipe:
        if context.side is Side.INITIATOR:
            await context.claim()
        pipe, _ = await tls_pipes(*bench.internet.stream_pair(Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2)))
        return pipe

    Fake.body = body  # type: ignore[assignment]
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(1)
    await host.command([NameWinner("alice", ATTEMPT_ID)])
    await asyncio.sleep(1)
    assert [(node, side) for node, side, _ in bench.held] == [("bob", Side.RESPONDER), ("alice", Side.INITIATOR)]
    await host.close()


@virtual_time
async def test_what_the_peer_only_measures_is_echoed_and_not_held() -> None:
    async def body(context: AttemptContext) -> Pipe:
        context.peer_wishes = Wishes.MEASURED
        return bobs

    bench = Bench()
    bobs, alices = await tls_pipes(*bench.internet.stream_pair(Endpoint("203.0.113.2", 2), Endpoint("203.0.113.1", 1)))
    Fake.body = body  # type: ignore[assignment]
    host = await bench.open()
    await host.deliver([signal(Ask(**HEAD))])
    await alices.send(b"token")
    assert await alices.recv() == b"token"
    assert bench.held == []
    await alices.close()
    await host.close()


@virtual_time
async def test_closing_ends_what_runs_and_says_so() -> None:
    bench = Bench()
    host = await bench.open()
    await host.command([ORDER])
    await host.deliver([signal(Ask(**HEAD))])
    await asyncio.sleep(1)
    await host.close()
    stopped = AttemptOutcome.CANCELLED, Reason.STOPPED
    assert sorted(bench.ends()) == [("alice", *stopped), ("bob", *stopped)]
    assert now_s() == pytest.approx(1)
    assert len(asyncio.all_tasks()) == 1
