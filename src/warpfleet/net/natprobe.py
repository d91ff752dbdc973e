"""NAT behaviour discovery (RFC 5780): the tests, all at once on sockets of their own, in about four round trips.

Where the NATs at the external address are known already, a check comes first: two round trips, a handful of packets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warpfleet.core.classify import Observations, classify, contradicted, leaves_doubts
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.nat import Mapping, NatBehaviour, NatSource
from warpfleet.net import stun
from warpfleet.net.interfaces import CountableNetwork, packets_sent_by
from warpfleet.net.probe_bench import Bench, Station
from warpfleet.net.stun import Answer

UDP_TIMEOUT_S = 1.2  # without any answer to four transmissions, UDP is taken to be blocked if TCP is answered
TCP_STAGGER_S = 0.3  # so long UDP has before TCP is tried beside it
MAX_SERVERS = 4
PORT_SOCKETS = 6  # five steps between mappings: chance does not make them look like a sequence
MORE_SOCKETS = 8  # where those leave doubts: fourteen ports in all show a block, or an order that chance does not
SENDS = 4  # of a test whose silence counts: one network in a thousand loses four packets of a hundred each
MIN_INTERVAL_S = 0.01  # between those, on networks with shorter round trips than a busy machine's hiccups
MIN_GRACE_S = 0.05  # for the last of their answers, for the same reason
LOOKS = 2  # at the filtering, where the first proves nothing: the answers may have come later than one before them


@dataclass(frozen=True, slots=True, kw_only=True)
class NatReport:
    """What a probe found: the behaviour, how it is known, the address that servers see, and what was observed.

    `packets_sent` counts datagrams and TCP segments; None where the kernel does not tell of the latter.
    """

    behaviour: NatBehaviour
    source: NatSource
    external_ip: str | None
    seen: Observations
    packets_sent: int | None


Recall = Callable[[str], Awaitable[KnownNat | None]]
"""Asks what is known of the NATs at an external IP address."""


async def _recall_nothing(_: str) -> None:
    """For whoever has no memory."""


async def probe(
    network: CountableNetwork,
    servers: Sequence[Endpoint],
    *,
    af: int,
    timeout_s: float = 5.0,
    recall: Recall = _recall_nothing,
) -> NatReport:
    """Probe the NATs before a network, for address family 4 or 6. What cannot be found out in time stays unknown.

    One server with an OTHER-ADDRESS (RFC 5780 section 7.4) suffices; without one, two servers show the mapping.
    `recall` is asked once, as soon as an answer shows the external address; what it knows is checked and, where nothing
    contradicts it, is the result, with what the check cannot see (hairpinning, lifetime). Else every test is run.
    Unreachable where the vantage has no such family.
    """
    local_ips = frozenset(interface.ip for interface in network.interfaces())
    notes = _Notes(Observations(local_ips=local_ips))
    usable = [server for server in servers if server.af == af][:MAX_SERVERS]
    known: KnownNat | None = None
    async with Bench(network, af) as bench:
        try:
            async with asyncio.timeout(timeout_s):
                if usable:
                    known = await _Probe(network, bench, notes).run(usable, recall)
        except TimeoutError:
            pass
    return NatReport(
        behaviour=known.behaviour if known else classify(notes.seen),
        source=NatSource.OBSERVATORY if known else NatSource.RFC5780,
        external_ip=notes.seen.external_ip,
        seen=notes.seen,
        packets_sent=packets_sent_by(bench.counted),
    )


class _Notes:
    """The observations so far, so that a deadline loses none of them."""

    def __init__(self, seen: Observations) -> None:
        self.seen = seen

    def add(self, **facts: Any) -> None:
        self.seen = replace(self.seen, **facts)


class _Probe:
    """One run of the tests. Every test writes what it sees into the notes."""

    def __init__(self, network: CountableNetwork, bench: Bench, notes: _Notes) -> None:
        self._network = network
        self._bench = bench
        self._notes = notes
        self._rtt_s = 0.0
        self._asked: dict[Endpoint, asyncio.Task[Answer | None]] = {}

    async def run(self, servers: list[Endpoint], recall: Recall) -> KnownNat | None:
        """Check what is known, or run every test: what is known and was confirmed, or None."""
        main = await self._bench.station()
        over_tcp = self._bench.start(self._over_tcp(servers))
        primary = self._bench.start(self._primary(main, servers))
        external_ip = await self._external_ip(primary, over_tcp)
        known = await recall(external_ip) if external_ip else None
        if known and await self._confirmed(known, main, primary):
            return known
        found = await primary
        if found is None:
            await over_tcp
        else:
            over_tcp.cancel()
            await self._all_tests(main, *found)
        return None

    async def _external_ip(
        self, primary: asyncio.Task[tuple[Endpoint, Answer] | None], over_tcp: asyncio.Task[None]
    ) -> str | None:
        """The external address, as soon as an answer over UDP or TCP shows it."""
        pending: set[asyncio.Task[Any]] = {primary, over_tcp}
        while pending and self._notes.seen.external_ip is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if self._notes.seen.mapped:
            over_tcp.cancel()
        return self._notes.seen.external_ip

    async def _confirmed(
        self, known: KnownNat, main: Station, primary: asyncio.Task[tuple[Endpoint, Answer] | None]
    ) -> bool:
        """Whether a check speaks for what is known."""
        if not known.behaviour.complete:
            return False
        if known.behaviour.udp is False:
            return not contradicted(known.behaviour, self._notes.seen)
        found = await primary
        if found is None:
            return False
        server, answer = found
        if answer.other is None:  # a server that cannot contradict cannot confirm
            return False
        same_exit = Exit.of(known.exit.realm, answer.mapped.ip) == known.exit
        return same_exit and not contradicted(known.behaviour, await self._check(main, server, answer, answer.other))

    async def _check(self, main: Station, server: Endpoint, answer: Answer, other: Endpoint) -> Observations:
        """One transmission of each test that could contradict. What it sees stays out of the notes: one packet's
        silence proves nothing."""
        fresh = await self._bench.station()
        from_both, from_port, _ = await asyncio.gather(
            self._changed(fresh, server, stun.CHANGE_IP | stun.CHANGE_PORT, sends=1),
            self._changed(fresh, server, stun.CHANGE_PORT, sends=1),
            self._ask(main, Endpoint(other.ip, server.port)),
        )
        return replace(
            self._notes.seen,
            ports=((main.socket.local.port, answer.mapped.port),),
            change_both={other: True, None: False}.get(from_both),
            change_port={Endpoint(server.ip, other.port): True, None: False}.get(from_port),
        )

    async def _all_tests(self, main: Station, server: Endpoint, answer: Answer) -> None:
        stations = [await self._bench.station() for _ in range(PORT_SOCKETS + 2)]
        ports, filters = stations[:PORT_SOCKETS], stations[PORT_SOCKETS:]
        # In this order: the ports' mappings are to be consecutive ones.
        fresh = self._bench.start(self._ports(ports, server))
        mapping = self._bench.start(self._mapping(main, server, answer.other))
        more = self._bench.start(self._more_ports(server, fresh, mapping))
        tests = [fresh, mapping, more, self._bench.start(self._hairpin(ports, fresh))]
        if answer.other is not None:
            tests.append(self._bench.start(self._filtering(main, filters, server, answer.other, mapping)))
        await asyncio.gather(*tests)

    async def _primary(self, main: Station, servers: list[Endpoint]) -> tuple[Endpoint, Answer] | None:
        """Ask all servers, and choose the first to answer with another address, or else the first at all."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for server in servers:
            self._ask(main, server)
        asked = {task: server for server, task in self._asked.items()}
        pending = set(asked)
        chosen: tuple[Endpoint, Answer] | None = None
        patience_s: float | None = None
        while pending:
            done, pending = await asyncio.wait(pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                answer = task.result()
                if answer is not None and chosen is None:
                    self._rtt_s = loop.time() - began_s
                    patience_s = max(self._rtt_s, MIN_GRACE_S)
                if answer is not None and (chosen is None or answer.other is not None):
                    chosen = asked[task], answer
            if chosen is not None and chosen[1].other is not None:
                break
        return chosen

    def _ask(self, main: Station, server: Endpoint) -> asyncio.Task[Answer | None]:
        """Ask for the main socket's mapped address towards a server, once."""
        if server not in self._asked:
            self._asked[server] = self._bench.start(self._mapped(main, server))
        return self._asked[server]

    async def _mapped(self, main: Station, server: Endpoint) -> Answer | None:
        try:
            answer = await main.transactions.binding(server, timeout_s=UDP_TIMEOUT_S)
        except TimeoutError:
            return None
        self._notes.add(mapped=(*self._notes.seen.mapped, (server, answer.mapped)))
        if answer.other is not None and answer.other.ip == server.ip:  # it has no second address, whatever it says
            return answer._replace(other=None)
        return answer

    async def _mapping(self, main: Station, server: Endpoint, other: Endpoint | None) -> bool:
        """RFC 5780 section 4.3, tests II and III at once. Returns whether the server's other address answered."""
        if other is None:
            await asyncio.gather(*self._asked.values())
            return False
        second, third = self._ask(main, Endpoint(other.ip, server.port)), self._ask(main, other)
        await asyncio.gather(second, third)
        return third.result() is not None

    async def _ports(self, stations: list[Station], server: Endpoint) -> list[Answer | None]:
        """Note which external ports fresh sockets get."""
        answers = await self._answers(stations, server)
        self._notes.add(ports=_ports_of(stations, answers))
        return answers

    async def _more_ports(
        self, server: Endpoint, fresh: asyncio.Task[list[Answer | None]], mapping: asyncio.Task[bool]
    ) -> None:
        """Note those of some more, where the first leave doubts."""
        await asyncio.gather(fresh, mapping)
        if leaves_doubts(self._notes.seen):
            stations = [await self._bench.station() for _ in range(MORE_SOCKETS)]
            self._notes.add(more_ports=_ports_of(stations, await self._answers(stations, server)))

    @staticmethod
    async def _answers(stations: list[Station], server: Endpoint) -> list[Answer | None]:
        """Where the server sees each of these sockets."""

        async def ask(station: Station) -> Answer | None:
            try:
                return await station.transactions.binding(server, timeout_s=UDP_TIMEOUT_S)
            except TimeoutError:
                return None

        return await asyncio.gather(*(ask(station) for station in stations))

    async def _hairpin(self, stations: list[Station], fresh: asyncio.Task[list[Answer | None]]) -> None:
        """RFC 5780 section 4.5, both ways between two sockets, so that filtering does not stand in the way."""
        one, two = (await fresh)[:2]
        if one is None or two is None:
            return
        heard = await asyncio.gather(
            self._arrives(stations[0], two.mapped, stations[1]), self._arrives(stations[1], one.mapped, stations[0])
        )
        self._notes.add(hairpin=any(heard))

    async def _arrives(self, sender: Station, remote: Endpoint, receiver: Station) -> bool:
        indication = stun.Message(stun.Method.BINDING, stun.Class.INDICATION)
        return await self._heard(sender, indication, remote, receiver) is not None

    async def _filtering(
        self, main: Station, fresh: list[Station], server: Endpoint, other: Endpoint, mapping: asyncio.Task[bool]
    ) -> None:
        """Look again, with twice the patience, where the first look proves nothing."""
        for _ in range(LOOKS):
            if await self._filtering_shows(main, fresh, server, other, mapping):
                return
            self._rtt_s *= 2

    async def _filtering_shows(
        self, main: Station, fresh: list[Station], server: Endpoint, other: Endpoint, mapping: asyncio.Task[bool]
    ) -> bool:
        """RFC 5780 section 4.4, tests II and III at once, on sockets that have sent to nowhere else. Whether they prove
        anything.

        Silence counts only where the server is known to change its address: the main socket, which has sent to the
        other address and port as well, hears such an answer where the mapping is endpoint-independent; where it is
        not, the other address must at least answer. And it counts only once that proof is there, which is asked for
        after the tests: a server that was busy, or a host, has their answers before it.
        """
        both, port = stun.CHANGE_IP | stun.CHANGE_PORT, stun.CHANGE_PORT
        sent = asyncio.Event(), asyncio.Event()
        proof = self._bench.start(self._proof(main, server, mapping, sent))
        from_both, from_port = await asyncio.gather(
            self._changed(fresh[0], server, both, until=proof, sent=sent[0]),
            self._changed(fresh[1], server, port, until=proof, sent=sent[1]),
        )
        if from_both == other:
            self._notes.add(change_both=True)
        elif from_both is None and await proof:
            heard = from_port == Endpoint(server.ip, other.port)
            self._notes.add(change_both=False, change_port=heard if heard or from_port is None else None)
        return self._notes.seen.change_both is not None

    async def _proof(
        self, main: Station, server: Endpoint, mapping: asyncio.Task[bool], sent: Sequence[asyncio.Event]
    ) -> bool:
        if not await mapping:
            return False
        await asyncio.gather(*(each.wait() for each in sent))
        if classify(self._notes.seen).mapping is not Mapping.EIM:
            return True
        return await self._changed(main, server, stun.CHANGE_IP | stun.CHANGE_PORT) is not None

    async def _changed(
        self,
        station: Station,
        server: Endpoint,
        change: int,
        *,
        sends: int = SENDS,
        until: asyncio.Task[bool] | None = None,
        sent: asyncio.Event | None = None,
    ) -> Endpoint | None:
        """From where the server answered a request to change its address or port; None where it was not heard."""
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        request.attributes["CHANGE-REQUEST"] = change
        return await self._heard(station, request, server, station, sends=sends, until=until, sent=sent)

    async def _heard(
        self,
        sender: Station,
        message: stun.Message,
        remote: Endpoint,
        receiver: Station,
        *,
        sends: int = SENDS,
        until: asyncio.Task[bool] | None = None,
        sent: asyncio.Event | None = None,
    ) -> Endpoint | None:
        """Send a message several times, and hear from where it, or its answer, arrives, or that it does not.

        It is listened for until a deadline, and until `until` has been done for a while.
        """
        interval_s = max(self._rtt_s / 4, MIN_INTERVAL_S)
        times_s = [turn * interval_s for turn in range(sends)]
        grace_s = max(self._rtt_s, MIN_GRACE_S)
        heard = self._bench.start(
            sender.transactions.exchange(
                message, remote, times_s=times_s, timeout_s=None, heard_by=receiver.transactions, sent=sent
            )
        )
        patience = self._bench.start(self._patience(times_s[-1] + self._rtt_s + grace_s, until, grace_s))
        await asyncio.wait({heard, patience}, return_when=asyncio.FIRST_COMPLETED)
        patience.cancel()
        if not heard.done():
            heard.cancel()
            return None
        _, source = heard.result()
        return source

    @staticmethod
    async def _patience(timeout_s: float, until: asyncio.Task[bool] | None, grace_s: float) -> None:
        async def grace() -> None:
            if until:
                await asyncio.wait({until})
                await asyncio.sleep(grace_s)

        await asyncio.gather(asyncio.sleep(timeout_s), grace())

    async def _over_tcp(self, servers: list[Endpoint]) -> None:
        """Note the mapped address that a server sees over TCP, of the first that answers."""
        await asyncio.sleep(TCP_STAGGER_S)
        for server in servers:
            try:
                counted = self._bench.counted.append
                stream = await self._network.connect_tcp(server, timeout_s=UDP_TIMEOUT_S, discard=counted)
                counted(stream)
            except (WarpfleetError, TimeoutError):
                continue
            try:
                answer = await stun.binding_over_stream(stream, timeout_s=UDP_TIMEOUT_S)
            except (WarpfleetError, TimeoutError):
                continue
            finally:
                stream.close()
            self._notes.add(tcp_mapped=answer.mapped)
            return


def _ports_of(stations: list[Station], answers: list[Answer | None]) -> tuple[tuple[int, int], ...]:
    """The local and the external port of each that was answered."""
    answered = zip(stations, answers, strict=True)
    return tuple((station.socket.local.port, answer.mapped.port) for station, answer in answered if answer is not None)
