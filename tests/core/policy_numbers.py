"""The three policies, with plain numbers."""

from warpfleet.core.combo import Phase, RouteType
from warpfleet.core.plan import PhaseTiming, WalkNumbers

NIC, EXT, LOOPBACK = RouteType.NIC, RouteType.EXT, RouteType.LOOPBACK
DIRECT, PUNCH, SPRAY, RELAY = Phase.DIRECT, Phase.PUNCH, Phase.SPRAY, Phase.RELAY
STRICT_TIMINGS = {phase: PhaseTiming(None, 5.0) for phase in Phase}
STAGGERED_TIMINGS = {
    DIRECT: PhaseTiming(0, 5),
    SPRAY: PhaseTiming(0.3, 15),
    PUNCH: PhaseTiming(1.0, 10),
    RELAY: PhaseTiming(2.5, 10),
}
STRICT = WalkNumbers(STRICT_TIMINGS, skip_ruled_out=False, deadline_s=45)
STAGGERED = WalkNumbers(STAGGERED_TIMINGS, skip_ruled_out=True, deadline_s=30)
RELAY_FIRST = WalkNumbers(
    STAGGERED_TIMINGS | {RELAY: PhaseTiming(0, 10)}, skip_ruled_out=True, deadline_s=30, upgrades=True
)
