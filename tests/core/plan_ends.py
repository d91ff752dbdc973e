"""Techniques, the two ends between which they are planned, and how a test reads such a plan."""

from dataclasses import replace

from policy_numbers import DIRECT, EXT, LOOPBACK, NIC, RELAY, SPRAY

from warpfleet.core.combo import Phase, RouteType, Transport
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Plan, Planned, Technique


def technique(
    plugin: str, phase: Phase | None, requirement: Requirement, *routes: RouteType, families: tuple[int, ...] = (4,)
) -> Technique:
    transport = Transport.TCP if phase is DIRECT else Transport.UDP
    return Technique(
        plugin=plugin, phase=phase, transport=transport, requirement=requirement, routes=routes, families=families
    )


DIAL = technique("dial", DIRECT, Requirement.PEER_REACHABLE, NIC, EXT, LOOPBACK)
REVERSE = technique("reverse", DIRECT, Requirement.SELF_REACHABLE, NIC, EXT)
PUNCHER = technique("punch", SPRAY, Requirement.PUNCHABLE, NIC, EXT)
RELAYER = technique("relay", RELAY, Requirement.RELAY, EXT)
ASK = technique("ask", None, Requirement.SIGNAL, EXT)
TECHNIQUES = (DIAL, REVERSE, PUNCHER, RELAYER, ASK)

OPEN = NatBehaviour(translated=False, filtering=Filtering.EIF, mapping=Mapping.EIM, udp=True)
CONE = NatBehaviour(translated=True, filtering=Filtering.APDF, mapping=Mapping.EIM, udp=True)
RANDOM_NAT = NatBehaviour(
    translated=True, filtering=Filtering.APDF, mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM, udp=True
)


def peer(
    name: str,
    ip: str,
    external: str | None,
    nat: NatBehaviour,
    *,
    machine: str = "",
    relay: bool = True,
    listens: bool = True,
) -> PeerView:
    return PeerView(
        name=name,
        machine=machine or name,
        interfaces=(Interface("eth0", ip, 24),),
        listeners=(Endpoint("0.0.0.0", 443),) if listens else (),
        external={4: external} if external else {},
        nat={4: nat},
        relay=relay,
    )


HOME = peer("home", "192.168.1.2", "198.51.100.1", CONE)
FLATMATE = peer("flatmate", "192.168.1.3", "198.51.100.1", CONE)
FAR_HOME = peer("far_home", "192.168.1.2", "198.51.100.2", CONE)
SERVER = peer("server", "203.0.113.5", "203.0.113.5", OPEN)
HEARING = replace(SERVER, standing={"udp_punch": {4: 40_000}})
BLOCKED_HOME = peer("blocked", "192.168.1.2", "198.51.100.4", NatBehaviour(translated=True, udp=False))
UNPROBED = peer("unprobed", "203.0.113.5", "203.0.113.5", NatBehaviour())
OFFICE = peer("office", "10.0.0.2", "198.51.100.3", RANDOM_NAT)
SAME_BOX = peer("same_box", "192.168.1.2", "198.51.100.1", CONE, machine="home")


def read(plan: Plan) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The plan as a specification: what is tried in each phase, long shots with a question mark, and what is skipped,
    why."""
    tried = {
        p.phase.value: [f"{c.combo.plugin}/{c.combo.route}{'?' * c.long_shot}" for c in p.combos]
        for p in plan.phases
        if p.combos
    }
    return tried, {f"{s.combo.plugin}/{s.combo.route}": s.reason.value for s in plan.skipped}


def planned(plan: Plan) -> dict[str, Planned]:
    return {f"{c.combo.plugin}/{c.combo.route}": c for p in plan.phases for c in p.combos}
