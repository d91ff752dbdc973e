"""A laboratory on paper: hosts, and the routers that they stand behind. Pure values; `lab/` builds them."""

from enum import StrEnum
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from warpfleet.configs.line import LineQuality
from warpfleet.configs.loader import error_at, load
from warpfleet.core.errors import InputError
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_mapping import PortMapping
from warpfleet.core.port_range import PortRange, checked

# RFC 4787 section 4.3, REQ-5: a UDP mapping lives two minutes at least, five are recommended.
DEFAULT_UDP_LIFETIME_S = 300
# What a network that blocks UDP still lets out: the web, and TURN over TCP on its registered port.
WEB_AND_TURN_PORTS = (80, 443, 3478)
PUBLIC = "public"
MIN_BLOCK_PORTS = 64  # a sequence takes a step at least, and a page a few dozen mappings
_REALM_DIGITS = 12  # 48 bits: chance makes no two topologies of one user alike
# The places of the servers, of a broker that stands apart, and of the delay: no host or router may be called so.
CORE, BROKER, WIRE = "core", "broker", "wire"

# Without dots, which separate the parts of a namespace's name, and short enough for it to be a node's vantage.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$")]
LabName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,23}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
DelayMs = Annotated[float, Field(ge=0, le=10_000)]
Loss = Annotated[float, Field(ge=0, lt=1)]


class TcpAnswer(StrEnum):
    """What a router answers to a SYN that nobody behind it asked for (RFC 5382 section 4.3, RFC 7857 section 5)."""

    DROP = "drop"
    RST = "rst"


class Ipv6(StrEnum):
    """Whether the network behind a router has IPv6, and whether a stateful firewall guards it (RFC 6092)."""

    NONE = "none"
    FIREWALLED = "firewalled"
    OPEN = "open"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NatSpec(_Spec):
    """One point in the space of RFC 4787. Every knob is independent of the others unless a validator says otherwise."""

    translated: bool = True  # false: a router with a firewall only; the hosts behind it have public addresses
    mapping: Mapping = Mapping.EIM  # section 4.1
    filtering: Filtering = Filtering.APDF  # section 5
    port_assignment: PortAssignment = PortAssignment.PRESERVING  # section 4.2.1
    port_delta: Annotated[int, Field(ge=-64, le=64)] = 1  # step of a sequential allocator, in ports (not in the RFC)
    # RFC 6888 section 4, RFC 7422: the block that random and sequential ports are taken from; none: of all
    port_range: Annotated[PortRange, AfterValidator(checked)] | None = None
    hairpinning: bool = False  # section 6; the source is the external endpoint (REQ-9 a)
    udp_lifetime_s: Annotated[int, Field(ge=1, le=86_400)] = DEFAULT_UDP_LIFETIME_S  # section 4.3
    tcp_unsolicited: TcpAnswer = TcpAnswer.DROP
    udp_blocked: bool = False  # no UDP passes, in or out
    tcp_out_ports: tuple[Port, ...] = ()  # the only TCP ports that hosts may connect to; empty: all
    port_mapping: tuple[PortMapping, ...] = ()  # RFC 6887, RFC 6886, UPnP-IGD: how hosts may have ports mapped

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mapping is Mapping.UNKNOWN or self.filtering is Filtering.UNKNOWN:
            raise ValueError("mapping and filtering must be known")
        if self.port_assignment is PortAssignment.UNKNOWN:
            raise ValueError("port_assignment must be known")
        if self.port_mapping and not self.translated:
            raise ValueError("port_mapping needs a router that translates")
        if self.port_delta == 0:
            raise ValueError("port_delta must not be 0")
        if self.port_range and self.port_range.size < MIN_BLOCK_PORTS:
            raise ValueError(f"port_range must have {MIN_BLOCK_PORTS} ports or more")
        if self.mapping is not Mapping.EIM and self.port_assignment is PortAssignment.PRESERVING:
            raise ValueError(f"{self.mapping} with preserved ports would be EIM: choose random or sequential")
        return self

    @property
    def behaviour(self) -> NatBehaviour:
        """What a perfect observer would say of this router: the truth that measurements are compared with."""
        sequential = self.port_assignment is PortAssignment.SEQUENTIAL
        return NatBehaviour(
            mapping=self.mapping if self.translated else Mapping.EIM,
            filtering=self.filtering,
            port_assignment=self.port_assignment if self.translated else PortAssignment.PRESERVING,
            port_delta=self.port_delta if sequential else None,
            port_range=self.port_range if self.port_assignment is PortAssignment.RANDOM else None,
            hairpin=self.hairpinning,
            lifetime_s=self.udp_lifetime_s,
            translated=self.translated,
            udp=not self.udp_blocked,
        )


# The names people use, as points in that space. `public` is no router at all.
PRESETS: dict[str, NatSpec | None] = {
    PUBLIC: None,
    "public_firewalled": NatSpec(translated=False),
    "full_cone": NatSpec(filtering=Filtering.EIF),
    "addr_restricted": NatSpec(filtering=Filtering.ADF),
    "port_restricted": NatSpec(),
    "eim_random_ports": NatSpec(port_assignment=PortAssignment.RANDOM),
    "symmetric_sequential": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.SEQUENTIAL),
    "symmetric_random": NatSpec(mapping=Mapping.APDM, port_assignment=PortAssignment.RANDOM),
    "udp_blocked": NatSpec(udp_blocked=True, tcp_out_ports=WEB_AND_TURN_PORTS),
}


def _preset(name: str) -> NatSpec | None:
    if name not in PRESETS:
        raise ValueError(f"no NAT preset {name!r}: one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _expand(value: Any) -> Any:
    """`full_cone`, or `{preset: full_cone, hairpinning: true}`, or the knobs themselves."""
    if isinstance(value, str):
        return _preset(value)
    if isinstance(value, dict) and "preset" in value:
        base = _preset(str(value["preset"]))
        if base is None:
            raise ValueError("public means no router: it has no knobs")
        return base.model_dump() | {key: knob for key, knob in value.items() if key != "preset"}
    return value


Nat = Annotated[NatSpec, BeforeValidator(_expand)]
HostNat = Annotated[NatSpec | None, BeforeValidator(_expand)]


class _Place(_Spec):
    name: Name
    behind: Name | None = None  # the next router towards the internet; none: the internet itself
    # Of its line towards the internet; of a host that has a router of its own, that router's line.
    delay_ms: DelayMs = 0.0
    jitter_ms: DelayMs = 0.0
    loss: Loss = 0.0

    @property
    def quality(self) -> LineQuality:
        """What its line does to packets."""
        return LineQuality(self.delay_ms, self.jitter_ms, self.loss)


class RouterSpec(_Place):
    """A router: one external address, one network behind it. `behind` another one, there is carrier-grade NAT."""

    nat: Nat
    ipv6: Ipv6 = Ipv6.NONE


class HostSpec(_Place):
    """A host. With `nat` it stands behind a router of its own, with `behind` behind a named one, else it is public.
    With `beside` it is one more node on another host's machine."""

    nat: HostNat = None
    beside: Name | None = None
    ipv6: Ipv6 | None = None  # of its own router, or of a public host; behind a named router that router decides
    listen: tuple[Port, ...] | None = None  # TCP ports; none: 443 and any free one where public, else any free one

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.nat is not None and self.behind is not None:
            raise ValueError("a host has either `nat` (a router of its own) or `behind` (a named router)")
        if self.behind is not None and self.ipv6 is not None:
            raise ValueError("`ipv6` is the router's to say when a host is `behind` a named one")
        if self.public and self.ipv6 is Ipv6.FIREWALLED:
            raise ValueError("a public host has no firewall: `ipv6` is `none` or `open`")
        if self.beside is not None and self.model_fields_set - {"name", "beside", "listen"}:
            raise ValueError("a host that is `beside` another one has that one's place: only `listen` is its own")
        return self

    @property
    def public(self) -> bool:
        """Whether it stands on the internet itself."""
        return self.nat is None and self.behind is None and self.beside is None


class Topology(_Spec):
    """A laboratory: its name, its hosts and its named routers."""

    version: Literal[1]
    name: LabName
    broker_delay_ms: DelayMs = 0.0  # one-way, of the broker's line, which every signal crosses twice
    routers: tuple[RouterSpec, ...] = ()
    hosts: tuple[HostSpec, ...]

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if not self.hosts:
            raise error_at(("hosts",), "the list is empty; add at least one host")
        taken = {CORE, BROKER, WIRE}
        for key, specs in self._places():
            for index, spec in enumerate(specs):
                if spec.name in taken:
                    message = f"the name '{spec.name}' is taken; hosts and routers need different ones"
                    raise error_at((key, index, "name"), message)
                taken.add(spec.name)
        return self

    @model_validator(mode="after")
    def _places_exist(self) -> Self:
        routers = {router.name: router for router in self.routers}
        for key, specs in self._places():
            for index, spec in enumerate(specs):
                if spec.behind is not None and spec.behind not in routers:
                    raise error_at((key, index, "behind"), f"no router '{spec.behind}'; list it under 'routers'")
        machines = {host.name for host in self.hosts if host.beside is None}
        for index, host in enumerate(self.hosts):
            if host.beside is not None and host.beside not in machines:
                raise error_at(("hosts", index, "beside"), f"no host '{host.beside}' with a machine of its own")
        for index, router in enumerate(self.routers):
            try:
                _check_chain(router, routers)
            except ValueError as error:
                raise error_at(("routers", index, "behind"), str(error)) from None
        return self

    def _places(self) -> tuple[tuple[str, tuple[_Place, ...]], ...]:
        return ("routers", self.routers), ("hosts", self.hosts)

    @property
    def realm(self) -> str:
        """The address realm (RFC 2663 section 2.1) of its laboratories. Of all topologies' the addresses are the same,
        so the realm goes with the content: what is known of one NAT is not taken for another's."""
        return "lab-" + sha256(self.model_dump_json().encode()).hexdigest()[:_REALM_DIGITS]

    def all_routers(self) -> tuple[RouterSpec, ...]:
        """The named routers, and the one of each host that has its own (named after the host)."""
        return (*self.routers, *(own_router(host) for host in self.hosts if host.nat is not None))


def _check_chain(router: RouterSpec, routers: dict[str, RouterSpec]) -> None:
    chain = [router.name]
    while (behind := routers[chain[-1]].behind) is not None:
        if behind in chain:
            raise ValueError(f"router '{router.name}' stands behind itself")
        chain.append(behind)
    if len(chain) == 1:
        return
    if not router.nat.translated:
        raise ValueError(f"router '{router.name}' does not translate, so it must stand on the internet itself")
    if not routers[chain[1]].nat.translated:
        raise ValueError(f"router '{chain[1]}' does not translate, so only hosts may stand behind it")
    if router.ipv6 is not Ipv6.NONE and routers[chain[1]].ipv6 is Ipv6.NONE:
        raise ValueError(f"router '{router.name}' has IPv6, but '{chain[1]}' in front of it has none")


def own_router(host: HostSpec) -> RouterSpec:
    """The router that a host with `nat` stands behind."""
    assert host.nat is not None
    return RouterSpec.model_construct(
        name=f"{host.name}.router",
        nat=host.nat,
        behind=None,
        delay_ms=host.delay_ms,
        jitter_ms=host.jitter_ms,
        loss=host.loss,
        ipv6=host.ipv6 or Ipv6.NONE,
    )


def find_topology(text: str) -> Topology:
    """A topology by the path of its file, or by the name of one that ships. InputError where there is neither."""
    shipped = {
        Path(str(entry)).stem: Path(str(entry)) for entry in (files("warpfleet.configs") / "topologies").iterdir()
    }
    if text in shipped and not Path(text).is_file():
        return load(shipped[text], Topology)
    if not Path(text).is_file():
        raise InputError(f"no topology '{text}': give the path of a file, or one of {', '.join(sorted(shipped))}")
    return load(Path(text), Topology)
