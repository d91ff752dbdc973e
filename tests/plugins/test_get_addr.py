"""A peer's record is asked for with get_addr, and comes with return_addr."""

import asyncio

import pytest
from meeting import EXT, two

from fake_network import DELAY_S, Internet
from fake_node import contexts
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Combo
from warpfleet.plugins.get_addr import GetAddress
from warpfleet.plugins.return_addr import ReturnAddress


@virtual_time
async def test_a_record_is_asked_for_and_learnt() -> None:
    alice, bob = two(Internet())
    a, _ = contexts(alice, bob, Combo("get_addr", 4, EXT), opened=lambda b: bob.spawn(ReturnAddress(b).run()))
    async with asyncio.timeout(5):
        assert await GetAddress(a).run() is None
    assert alice.learned == [("bob", b"record of bob")]
    assert now_s() == pytest.approx(2 * DELAY_S)
