"""What attempts may send, by peer and by target address."""

import asyncio

from fake_node import BOB, MALLORY
from virtual_time import virtual_time
from warpfleet.actors.budgets import Budgets
from warpfleet.core.targets import Allowance

ALLOWANCE = Allowance(packets_per_s=10, packets_burst=20)


def test_one_for_a_node_and_a_peer() -> None:
    budgets = Budgets(ALLOWANCE)
    budget = budgets.with_peer("alice", BOB.public)
    assert budgets.with_peer("alice", BOB.public) is budget
    assert budgets.with_peer("alice", MALLORY.public) is not budget
    assert budgets.with_peer("carol", BOB.public) is not budget
    assert budget.burst == 20


def test_one_for_a_node_and_an_address_with_room_for_a_crowd_behind_it() -> None:
    budgets = Budgets(ALLOWANCE)
    budget = budgets.towards("alice", "203.0.113.1")
    assert budgets.towards("alice", "203.0.113.1") is budget
    assert budgets.towards("alice", "203.0.113.2") is not budget
    assert budgets.towards("carol", "203.0.113.1") is not budget
    assert sum(budget.spend(0.0) for _ in range(1000)) == 16 * 20
    assert sum(budget.spend(1.0) for _ in range(1000)) == 16 * 10


@virtual_time
async def test_what_was_spent_is_forgotten_once_it_is_there_again() -> None:
    budgets = Budgets(ALLOWANCE)
    spent, full = budgets.towards("alice", "spent"), budgets.towards("alice", "full")
    while spent.spend(asyncio.get_running_loop().time()):
        continue
    for number in range(10_000):
        budgets.towards("alice", str(number))
    assert budgets.towards("alice", "spent") is spent, "whoever names many addresses gains nothing"
    assert budgets.towards("alice", "full") is not full
    await asyncio.sleep(2)
    for number in range(10_000):
        budgets.towards("alice", str(number))
    assert budgets.towards("alice", "spent") is not spent
