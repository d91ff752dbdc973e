"""One of a host's own nodes: what it has found out about itself, and what its address record says of that."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from warpfleet.actors.shared_probes import SharedProbes
from warpfleet.actors.values import NodeSpec
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.exit import Exit
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily, PeerView
from warpfleet.net.interfaces import Unreachable
from warpfleet.net.natprobe import NatReport
from warpfleet.net.network import KernelNetwork
from warpfleet.signal.clock import ClockEstimate
from warpfleet.signal.record import AddressRecord, InterfaceAddress, ListenerAddress, NatRecord

RECORD_LIFETIME_S = 3600.0  # a node that vanished is not dialled an hour later


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node found out about itself when it was opened; `nats` has the families that it was probed for."""

    name: str
    view: PeerView
    clock: ClockEstimate | None
    nats: dict[AddressFamily, NatReport] = field(default_factory=dict)


@dataclass(slots=True)
class OwnNode:
    """A node of this host."""

    spec: NodeSpec
    listeners: Sequence[Endpoint]
    external: dict[AddressFamily, str] = field(default_factory=dict)
    nats: dict[AddressFamily, NatReport] = field(default_factory=dict)
    clock: ClockEstimate | None = None
    located: asyncio.Event = field(default_factory=asyncio.Event)  # an external address is known, or none will be
    seq: int = 0
    view: PeerView | None = None  # from when it is published

    @property
    def report(self) -> NodeReport:
        """What it has found out, once it is published."""
        assert self.view is not None
        return NodeReport(self.spec.name, self.view, self.clock, self.nats)

    async def discover(self, probes: SharedProbes, known: dict[AddressFamily, NatReport] | None) -> None:
        """Find out what is before it, unless that is `known`."""
        spec = self.spec
        network = KernelNetwork(spec.vantage, stun_servers=spec.stun)

        async def probe(af: AddressFamily) -> None:
            def seen(external_ip: str) -> None:
                self.external[af] = external_ip
                self.located.set()

            with suppress(Unreachable):
                self.nats[af] = await probes.probe(network, spec.stun, realm=spec.realm, af=af, seen=seen)

        if known is not None:
            self.nats |= known
            self.external |= {af: report.external_ip for af, report in known.items() if report.external_ip}
        else:
            families = [af for af in ADDRESS_FAMILIES if any(server.af == af for server in spec.stun)]
            await asyncio.gather(*(probe(af) for af in families))
        self.located.set()

    async def explored(self, exploring: asyncio.Task[None], patience_s: float | None) -> None:
        """Return once all is known of it, or, after `patience_s`, what lets peers find it."""
        if (await asyncio.wait([exploring], timeout=patience_s))[0]:
            return
        located = asyncio.create_task(self.located.wait())
        await asyncio.wait([exploring, located], return_when=asyncio.FIRST_COMPLETED)
        located.cancel()

    def look(self) -> PeerView:
        """Sum up what is known of it by now, but for what plugins say of its ports."""
        spec = self.spec
        return PeerView(
            name=spec.name,
            machine=spec.vantage.machine_id(),
            interfaces=tuple(spec.vantage.interfaces()),
            listeners=tuple(self.listeners),
            external=dict(self.external),
            nat={af: report.behaviour for af, report in self.nats.items() if report.external_ip},
            relay=bool(spec.turn),
        )

    def exit(self, af: AddressFamily) -> Exit:
        """Where it comes out."""
        assert self.view is not None
        return Exit.of(self.spec.realm, self.view.external[af])

    def next_record(self, now: float) -> AddressRecord:
        """The address record that takes the place of all before it, at a wall-clock time."""
        assert self.view is not None
        # The clock makes sequence numbers grow across restarts of the process, too.
        self.seq = max(self.seq + 1, int(now * 1000))
        identity, view = self.spec.identity, self.view
        return AddressRecord(
            name=identity.name,
            node_id=identity.public.node_id,
            seq=self.seq,
            issued_at=now,
            expires_at=now + RECORD_LIFETIME_S,
            machine=view.machine,
            interfaces=tuple(
                InterfaceAddress(ip=i.ip, prefix_len=i.prefix_len)
                for af in ADDRESS_FAMILIES
                for i in view.addresses(af)
            ),
            external=view.external,
            listeners=tuple(
                ListenerAddress(ip=e.ip, port=e.port, external=external)
                for endpoints, external in ((view.mapped, True), (view.listeners, False))
                for e in endpoints
            ),
            nat={af: NatRecord.of(behaviour) for af, behaviour in view.nat.items()},
            relay=view.relay,
            standing=view.standing,
        )
