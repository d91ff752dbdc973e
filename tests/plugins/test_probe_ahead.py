"""What a random probe sends while the answer is on its way, by what the peer's record says."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from probing_pair import COMBO, Pair, carry_and_close, echoed_within_s

from fake_network import DELAY_S
from fake_node import HEAD, contexts
from virtual_time import now_s, virtual_time
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.nat import Mapping, NatBehaviour
from warpfleet.plugins.attempt_context import AttemptContext
from warpfleet.plugins.random_probe import RandomProbe
from warpfleet.plugins.random_probe.messages import Answer
from warpfleet.plugins.random_probe.plan import MAPPINGS_MAX, PROBES_MAX


@asynccontextmanager
async def unanswered(pair: Pair) -> AsyncIterator[AttemptContext]:
    """An attempt of Alice's that has waited for a second; it is cancelled in the end, and leaves what stands alone."""
    standing = pair.internet.open_sockets()
    a, _ = contexts(pair.alice, pair.bob, COMBO, allowance=RandomProbe.allowance)
    a.post = lambda _message: None
    attempt = asyncio.create_task(pair.run(a))
    await asyncio.sleep(1)
    yield a
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    assert pair.internet.open_sockets() == standing


@virtual_time
async def test_a_round_trip_of_mappings_is_there_before_the_answer_and_the_others_wait_for_it() -> None:
    pair = await Pair(random_initiator=True).open()
    before = len(pair.internet.udp)
    async with unanswered(pair) as a:
        mappings = pair.internet.udp[before:]
        where = {target for socket in mappings for _, target in socket.sent}
        assert where == {Endpoint(pair.bob.view.external[4], pair.bob.standing[4])}
        assert [len(socket.sent) for socket in mappings] == [1] * 253, "a peer that is gone gets no more"
        a.inbox.put_message(Answer(**HEAD, address=pair.bob.view.external[4], port=pair.bob.standing[4]))
        await asyncio.sleep(1)
        assert len(pair.internet.udp) - before == MAPPINGS_MAX
    await pair.close()


@virtual_time
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_probes_of_a_round_trip_go_before_the_answer_and_the_others_where_it_says(elsewhere: bool) -> None:
    pair = await Pair(random_initiator=False).open()
    [standing] = pair.internet.open_sockets()
    before, address = len(standing.sent), pair.bob.view.external[4]
    async with unanswered(pair) as a:
        early = [target for _, target in standing.sent[before:]]
        assert ({target.ip for target in early}, len(early), len(set(early))) == ({address}, 253, 253)
        address = "198.51.100.77" if elsewhere else address
        a.inbox.put_message(Answer(**HEAD, address=address, port=None))
        await asyncio.sleep(1)
        sent = Counter(target for _, target in standing.sent[before:] if target.ip == address)
        assert (len(sent), max(sent.values())) == (PROBES_MAX, 1), "none twice"
    await pair.close()


@virtual_time
@pytest.mark.parametrize("nat", [NatBehaviour(), NatBehaviour(translated=True, mapping=Mapping.EIM)])
async def test_where_the_record_does_not_say_what_the_answer_will_no_probe_goes_before(nat: NatBehaviour) -> None:
    pair = await Pair(random_initiator=False).open()
    [standing] = pair.internet.open_sockets()
    before = len(standing.sent)
    pair.bob.view.nat[4] = nat
    async with unanswered(pair):
        assert standing.sent[before:] == []
    await pair.close()


@virtual_time
async def test_where_the_record_is_old_all_mappings_go_where_the_answer_says() -> None:
    pair = await Pair(random_initiator=True).open(told=9)
    before = len(pair.internet.udp)
    await carry_and_close(*await pair.connect())
    targets = [[target.port for _, target in socket.sent] for socket in pair.internet.udp[before:]]
    assert [9, pair.bob.standing[4]] in targets
    assert [pair.bob.standing[4]] in targets
    await pair.close()


@virtual_time
@pytest.mark.parametrize("random_initiator", [True, False])
async def test_who_is_heard_before_its_answer_is_waited_for(random_initiator: bool) -> None:
    pair, late_s = await Pair(random_initiator=random_initiator).open(), 0.5

    def opened(b: AttemptContext) -> None:
        post, loop = b.post, asyncio.get_running_loop()
        b.post = lambda message: loop.call_later(late_s, post, message) and None

    began_s = now_s()
    ends = await pair.connect(opened=opened)
    assert now_s() - began_s == pytest.approx(2 * DELAY_S + late_s, abs=0.001)
    assert await echoed_within_s(*ends) == pytest.approx(2 * DELAY_S, abs=0.001), "the answer had the tunnel's flight"
    await pair.close()
