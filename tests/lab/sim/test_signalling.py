"""The signal channel in memory: when messages arrive, how often, and what becomes of those that cannot."""

import asyncio
import random

import pytest

from fake_node import CONNECTION_ID, HEAD
from virtual_time import now_s, virtual_time
from warpfleet.actors.values import IncomingSignal, OutgoingSignal
from warpfleet.lab.sim.signalling import Mailbox, Signalling
from warpfleet.plugins.address_messages import GetAddr
from warpfleet.plugins.attempt_messages import Abandon


class Bench:
    """Alice and Bob, 20 and 30 ms from the internet."""

    def __init__(self, *, loss: float = 0.0, broker_delay_s: float = 0.0, seed: int = 1) -> None:
        self.arrived: list[tuple[float, str, IncomingSignal]] = []
        self.signalling = Signalling(loss=loss, broker_delay_s=broker_delay_s, rng=random.Random(seed))
        for node, delay_s in (("alice", 0.02), ("bob", 0.03)):
            plugins = ("get_addr", "return_addr", "turn")
            self.signalling.open(node, Mailbox(delay_s, {plugin: self._taker(plugin) for plugin in plugins}))

    def _taker(self, plugin: str):  # type: ignore[no-untyped-def]
        async def take(signals: list[IncomingSignal]) -> None:
            self.arrived += [(now_s(), plugin, signal) for signal in signals]

        return take

    async def ask(self, deadline_s: float = 5.0) -> None:
        message = GetAddr.model_validate(HEAD)
        await self.signalling.post([OutgoingSignal("alice", "bob", CONNECTION_ID, "get_addr", message, deadline_s)])


@virtual_time
async def test_a_message_takes_both_lines_and_that_of_the_broker_twice() -> None:
    bench = Bench(broker_delay_s=0.75)
    await bench.ask()
    await asyncio.sleep(60)
    [(at_s, plugin, signal)] = bench.arrived
    assert (at_s, plugin, signal.node, signal.sender) == (pytest.approx(1.55), "return_addr", "bob", "alice")


@virtual_time
async def test_a_lost_message_is_sent_again_and_arrives_once() -> None:
    benches = [Bench(loss=0.5, seed=seed) for seed in range(20)]
    for bench in benches:
        await bench.ask(deadline_s=30)
    await asyncio.sleep(60)
    assert [len(bench.arrived) for bench in benches] == [1] * 20
    assert max(bench.arrived[0][0] for bench in benches) > 0.2


@virtual_time
async def test_what_never_arrives_comes_back_as_a_failure_of_the_sender() -> None:
    bench = Bench(loss=1.0)
    await bench.ask(deadline_s=2)
    await asyncio.sleep(60)
    [(at_s, plugin, signal)] = bench.arrived
    assert (at_s, plugin) == (pytest.approx(2), "get_addr")
    assert (signal.node, signal.sender, signal.message) == ("alice", "bob", None)


@virtual_time
async def test_that_an_attempt_is_given_up_reaches_the_plugin_that_it_names() -> None:
    bench = Bench()
    message = Abandon.model_validate(HEAD | {"plugin": "turn"})
    await bench.signalling.post([OutgoingSignal("bob", "alice", CONNECTION_ID, "turn", message, 5.0)])
    await asyncio.sleep(1)
    assert [(plugin, signal.node) for _, plugin, signal in bench.arrived] == [("turn", "alice")]
