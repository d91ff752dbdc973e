"""What a sweep is to do."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import uuid4

from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy
from warpfleet.core.pairs import Trial, choose_pairs, order_trials
from warpfleet.core.plan import Pin
from warpfleet.telemetry.sweep import ClockReading, Sweep, versions

if TYPE_CHECKING:  # a command that only sends a plan starts sooner without them
    from warpfleet.actors.own_node import NodeReport
    from warpfleet.signal.clock import ClockEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What a sweep is to do."""

    pairs: str
    repeat: int
    policy: Policy
    pin: Pin
    seed: int

    def sweep(self, fleet: Fleet, reports: "Sequence[NodeReport]") -> Sweep:
        """What `sweep.json` says of it."""
        return Sweep(
            sweep_id=uuid4().hex,
            fleet=fleet.redacted(),
            policy=self.policy,
            seed=self.seed,
            arguments={"pairs": self.pairs, "repeat": self.repeat, "only": self.pin.plugin, "af": self.pin.af},
            versions=versions(ray=version("ray")),
            started_at=datetime.now(UTC),
            clocks={report.name: _reading(report.clock) for report in reports if report.clock},
        )

    def trials(self, fleet: Fleet) -> list[Trial]:
        """Every connection of the sweep, in its order. InputError for pairs that the fleet does not have."""
        rng = random.Random(self.seed)
        pairs = choose_pairs([node.name for node in fleet.nodes], self.pairs, rng)
        return order_trials(pairs, self.repeat, rng)


def _reading(clock: "ClockEstimate") -> ClockReading:
    return ClockReading(offset_ms=clock.offset_s * 1000, error_ms=clock.error_s * 1000, servers=clock.servers)
