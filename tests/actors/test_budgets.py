"""What attempts may send, by peer and by target address."""

from fake_node import BOB, MALLORY
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


def test_one_for_a_node_and_an_address_with_room_for_a_few_peers() -> None:
    budgets = Budgets(ALLOWANCE)
    budget = budgets.towards("alice", "203.0.113.1")
    assert budgets.towards("alice", "203.0.113.1") is budget
    assert budgets.towards("alice", "203.0.113.2") is not budget
    assert budgets.towards("carol", "203.0.113.1") is not budget
    assert sum(budget.spend(0.0) for _ in range(100)) == 80
    assert sum(budget.spend(1.0) for _ in range(100)) == 40


def test_those_of_long_ago_are_forgotten() -> None:
    budgets = Budgets(ALLOWANCE)
    first, second = budgets.towards("alice", "0"), budgets.towards("alice", "1")
    for number in range(4095):
        budgets.towards("alice", "1")
        budgets.towards("alice", str(2 + number))
    assert budgets.towards("alice", "1") is second
    assert budgets.towards("alice", "0") is not first
