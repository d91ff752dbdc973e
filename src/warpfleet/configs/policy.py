"""The numbers of a policy: when each phase starts, and how long its attempts may take."""

from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from warpfleet.configs.loader import load
from warpfleet.core.combo import Phase, Policy
from warpfleet.core.plan import PhaseTiming, WalkNumbers


class PhaseNumbers(BaseModel):
    """One phase: it starts `start_s` after the walk began, or as soon as every earlier attempt has failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_s: float | None = Field(default=None, ge=0)  # None: only when every earlier attempt has ended
    timeout_s: float = Field(gt=0)


class PolicyNumbers(BaseModel):
    """All that sets one policy apart from another: the planner is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phases: dict[Phase, PhaseNumbers]
    skip_ruled_out: bool  # whether combos that the two NATs leave no chance are left out
    deadline_s: float = Field(gt=0)  # of the whole connection
    upgrades: bool = False  # whether a relayed pipe is moved to a direct path, which is sought meanwhile

    def walk_numbers(self) -> WalkNumbers:
        """The same numbers as the planner takes them."""
        timings = {phase: PhaseTiming(n.start_s, n.timeout_s) for phase, n in self.phases.items()}
        return WalkNumbers(timings, self.skip_ruled_out, self.deadline_s, self.upgrades)


def walk_numbers(policy: Policy) -> WalkNumbers:
    """The numbers that ship for a policy."""
    path = Path(str(files("warpfleet.configs") / "policies" / f"{policy}.yaml"))
    return load(path, PolicyNumbers).walk_numbers()
