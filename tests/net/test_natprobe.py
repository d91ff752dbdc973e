"""The probe against the embedded server, with what NATs and networks do to packets put between them in process."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, NatSource, PortAssignment
from warpfleet.net import natprobe, stun
from warpfleet.net.natprobe import NatReport, Recall, probe
from warpfleet.net.network import KernelNetwork
from warpfleet.net.sockets import UdpSocket
from warpfleet.net.stunserver import StunServer
from warpfleet.net.vantage import Vantage

HOME = "127.0.0.5"
Admits = Callable[[Endpoint, set[Endpoint]], bool]

FILTERS: dict[Filtering, Admits] = {
    Filtering.EIF: lambda source, sent: True,
    Filtering.ADF: lambda source, sent: source.ip in {remote.ip for remote in sent},
    Filtering.APDF: lambda source, sent: source in sent,
}


class FilteredSocket(UdpSocket):
    """A UDP socket behind a firewall that admits by where the socket has sent to, and that may lose packets."""

    admits: Admits
    loses: Callable[[int], bool]

    def restrict(self, admits: Admits, loses: Callable[[int], bool]) -> None:
        self._sent_to: set[Endpoint] = set()
        self._sends = 0
        self.admits, self.loses = admits, loses

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        self._sent_to.add(remote)
        self._sends += 1
        if not self.loses(self._sends):
            super().send_to(data, remote)

    async def receive(self) -> tuple[bytes, Endpoint]:
        while True:
            data, source = await super().receive()
            if self.admits(source, self._sent_to):
                return data, source


class FilteredNetwork(KernelNetwork):
    """The kernel's loopback, behind such a firewall."""

    def __init__(self, admits: Admits, loses: Callable[[int], bool] = lambda _: False, *, owns: str = HOME) -> None:
        super().__init__(Vantage(address=HOME))
        self._admits, self._loses, self._owns = admits, loses, owns

    def interfaces(self) -> Sequence[Interface]:
        return [Interface("test", self._owns, 8)]

    async def open_udp(self, af: int, port: int = 0) -> UdpSocket:
        socket = FilteredSocket.from_socket((await super().open_udp(af, port)).detach())
        socket.restrict(self._admits, self._loses)
        return socket


class BusySocket(FilteredSocket):
    """What it sends waits while the servers are busy."""

    servers: "BusyServers"

    def send_to(self, data: bytes, remote: Endpoint) -> None:
        self._sent_to.add(remote)
        self.servers.take(data, lambda: UdpSocket.send_to(self, data, remote))


class BusyServers(FilteredNetwork):
    """Servers that stop at the first request for another address, and then go on in the order of what came."""

    PAUSE_S = 0.2  # longer than the tests wait for an answer on loopback
    _ends_s: float | None = None
    _held = 0

    async def open_udp(self, af: int, port: int = 0) -> UdpSocket:
        socket = BusySocket.from_socket((await KernelNetwork.open_udp(self, af, port)).detach())
        socket.restrict(self._admits, self._loses)
        socket.servers = self
        return socket

    def take(self, data: bytes, send: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        message = stun.parse(data)
        if self._ends_s is None and message is not None and "CHANGE-REQUEST" in message.attributes:
            self._ends_s = loop.time() + self.PAUSE_S
        if self._ends_s is None or loop.time() >= self._ends_s:
            send()
        else:
            self._held += 1
            loop.call_at(self._ends_s + self._held * 1e-5, send)  # timers of one instant have no order


async def nothing_is_known(_: str) -> None:
    """A memory that has forgotten everything."""


async def probed(network: KernelNetwork, servers: Sequence[Endpoint], recall: Recall = nothing_is_known) -> NatReport:
    report = await probe(network, servers, af=4, recall=recall)
    assert asyncio.all_tasks() - serving == {asyncio.current_task()}
    return report


serving: set["asyncio.Task[object]"] = set()


@pytest.fixture(autouse=True)
async def _servers(stun_server: StunServer) -> None:
    serving.clear()
    serving.update(asyncio.all_tasks() - {task for task in [asyncio.current_task()] if task})


@pytest.mark.parametrize("filtering", FILTERS)
async def test_filtering_is_told_apart(stun_server: StunServer, filtering: Filtering) -> None:
    report = await probed(FilteredNetwork(FILTERS[filtering]), stun_server.endpoints)
    assert report.behaviour.filtering is filtering
    assert (report.behaviour.mapping, report.behaviour.translated, report.behaviour.udp) == (Mapping.EIM, False, True)
    assert report.behaviour.port_assignment is PortAssignment.PRESERVING
    assert report.external_ip == HOME


@pytest.mark.parametrize("filtering", FILTERS)
async def test_every_sockets_first_packets_may_be_lost(stun_server: StunServer, filtering: Filtering) -> None:
    network = FilteredNetwork(FILTERS[filtering], loses=lambda send: send in (1, 3))
    report = await probed(network, stun_server.endpoints)
    assert report.behaviour.filtering is filtering
    assert report.behaviour.mapping is Mapping.EIM


async def test_where_the_first_look_at_the_filtering_proves_nothing_a_more_patient_one_does(
    stun_server: StunServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks_s: list[float] = []
    proof = natprobe._Probe._proof

    async def late(self: natprobe._Probe, *arguments: Any) -> bool:
        looks_s.append(self._rtt_s)
        return len(looks_s) > 1 and await proof(self, *arguments)

    monkeypatch.setattr(natprobe._Probe, "_proof", late)
    report = await probed(FilteredNetwork(FILTERS[Filtering.APDF]), stun_server.endpoints)
    assert report.behaviour.filtering is Filtering.APDF
    assert looks_s == [looks_s[0], 2 * looks_s[0]]


@pytest.mark.parametrize("filtering", FILTERS)
async def test_a_server_that_is_busy_for_longer_than_the_tests_wait_proves_no_filtering(
    stun_server: StunServer, filtering: Filtering
) -> None:
    report = await probed(BusyServers(FILTERS[filtering]), stun_server.endpoints)
    assert report.behaviour.filtering is filtering


async def test_one_server_of_the_list_shows_everything(stun_server: StunServer) -> None:
    report = await probed(FilteredNetwork(FILTERS[Filtering.APDF]), stun_server.endpoints[:1])
    assert (report.behaviour.mapping, report.behaviour.filtering) == (Mapping.EIM, Filtering.APDF)


async def test_an_address_that_no_interface_has_is_a_translated_one(stun_server: StunServer) -> None:
    report = await probed(FilteredNetwork(FILTERS[Filtering.EIF], owns="192.168.1.2"), stun_server.endpoints)
    assert report.behaviour.translated is True
    assert report.behaviour.hairpin is True  # loopback brings back what is sent to the mapped address


async def test_a_server_without_another_address_leaves_filtering_unknown(stun_server: StunServer) -> None:
    plain = [await StunServer.start([ip]) for ip in ("127.0.0.1", "127.0.0.2")]
    serving.update(asyncio.all_tasks() - {task for task in [asyncio.current_task()] if task})
    network = FilteredNetwork(FILTERS[Filtering.APDF], owns="192.168.1.2")
    both = await probed(network, [server.endpoints[0] for server in plain])
    assert (both.behaviour.mapping, both.behaviour.filtering) == (Mapping.EIM, Filtering.UNKNOWN)
    one = await probed(network, [plain[0].endpoints[0]])
    assert (one.behaviour.mapping, one.behaviour.filtering) == (Mapping.UNKNOWN, Filtering.UNKNOWN)
    for server in plain:
        await server.close()


async def test_a_server_that_ignores_change_requests_proves_no_filtering(
    stun_server: StunServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims another address, and answers from the one that was asked."""
    monkeypatch.setattr(stun, "CHANGE_IP", 0)
    monkeypatch.setattr(stun, "CHANGE_PORT", 0)
    report = await probed(FilteredNetwork(FILTERS[Filtering.EIF]), stun_server.endpoints)
    assert (report.behaviour.mapping, report.behaviour.filtering) == (Mapping.EIM, Filtering.UNKNOWN)


async def test_blocked_udp_is_known_by_tcp(stun_server: StunServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 0.4)
    report = await probed(FilteredNetwork(lambda source, sent: False), stun_server.endpoints)
    assert (report.behaviour.udp, report.external_ip, report.behaviour.mapping) == (False, HOME, Mapping.UNKNOWN)


async def test_no_answer_at_all_proves_nothing(stun_server: StunServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(natprobe, "TCP_STAGGER_S", 0.0)
    await stun_server.close()
    report = await probe(FilteredNetwork(FILTERS[Filtering.EIF]), stun_server.endpoints, af=4)
    assert (report.behaviour.udp, report.external_ip) == (None, None)


async def test_a_deadline_keeps_what_was_seen(stun_server: StunServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natprobe, "MIN_GRACE_S", 60)
    network = FilteredNetwork(FILTERS[Filtering.APDF], owns="192.168.1.2")
    report = await probe(network, stun_server.endpoints, af=4, timeout_s=0.5)
    assert report.external_ip == HOME
    assert report.behaviour.filtering is Filtering.UNKNOWN


async def test_without_servers_nothing_is_known(stun_server: StunServer) -> None:
    assert (await probed(FilteredNetwork(FILTERS[Filtering.EIF]), [])).behaviour.udp is None


async def test_cancelling_a_probe_closes_its_sockets(stun_server: StunServer) -> None:
    probing = asyncio.create_task(probed(FilteredNetwork(lambda source, sent: False), stun_server.endpoints))
    await asyncio.wait({probing}, timeout=0.05)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    assert asyncio.all_tasks() - serving == {asyncio.current_task()}


# What is known of the exit


class Memory:
    """Knows one behaviour, whatever it is asked for, and what it was asked."""

    def __init__(self, behaviour: NatBehaviour | None) -> None:
        self.behaviour = behaviour
        self.asked: list[str] = []

    async def recall(self, external_ip: str) -> KnownNat | None:
        self.asked.append(external_ip)
        if self.behaviour is None:
            return None
        return KnownNat(Exit.of("test", external_ip), self.behaviour, 0.0)


def known(filtering: Filtering, **facts: Any) -> NatBehaviour:
    """Loopback's own behaviour behind such a filter, with what no check can see."""
    head: dict[str, Any] = {"mapping": Mapping.EIM, "port_assignment": PortAssignment.PRESERVING}
    head |= {"translated": False, "udp": True, "lifetime_s": 300.0}
    return NatBehaviour(filtering=filtering, **(head | facts))


BLOCKED = NatBehaviour(translated=False, udp=False)


@pytest.mark.parametrize("filtering", FILTERS)
async def test_what_is_known_is_checked_with_four_datagrams(
    stun_server: StunServer, filtering: Filtering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stun, "FIRST_RTO_S", 60)  # a machine that is busy for a moment would send one again
    monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 10)
    monkeypatch.setattr(natprobe, "TCP_STAGGER_S", 10)
    monkeypatch.setattr(natprobe, "MIN_GRACE_S", 1)
    memory = Memory(known(filtering))
    report = await probed(FilteredNetwork(FILTERS[filtering]), stun_server.endpoints, memory.recall)
    assert (report.behaviour, report.source) == (memory.behaviour, NatSource.OBSERVATORY)
    assert (report.external_ip, report.packets_sent, memory.asked) == (HOME, 4, [HOME])


@pytest.mark.parametrize("believed", FILTERS)
@pytest.mark.parametrize("filtering", FILTERS)
async def test_a_wrong_memory_leads_to_every_test(
    stun_server: StunServer, filtering: Filtering, believed: Filtering
) -> None:
    wrong = known(believed, mapping=Mapping.APDM if believed is filtering else Mapping.EIM, translated=True)
    memory = Memory(wrong)
    network = FilteredNetwork(FILTERS[filtering], owns="192.168.1.2")
    report = await probed(network, stun_server.endpoints, memory.recall)
    assert (report.behaviour.filtering, report.behaviour.mapping) == (filtering, Mapping.EIM)
    assert (report.source, report.behaviour.lifetime_s) == (NatSource.RFC5780, None)
    assert memory.asked == [HOME]


async def test_a_lost_packet_that_looks_like_a_contradiction_costs_the_tests_and_no_more(
    stun_server: StunServer,
) -> None:
    memory = Memory(known(Filtering.EIF))
    network = FilteredNetwork(FILTERS[Filtering.EIF], loses=lambda send: send == 1)
    report = await probed(network, stun_server.endpoints, memory.recall)
    assert (report.behaviour.filtering, report.source) == (Filtering.EIF, NatSource.RFC5780)


async def test_an_incomplete_memory_is_made_complete(stun_server: StunServer) -> None:
    memory = Memory(known(Filtering.UNKNOWN))
    report = await probed(FilteredNetwork(FILTERS[Filtering.ADF]), stun_server.endpoints, memory.recall)
    assert (report.behaviour.filtering, report.source) == (Filtering.ADF, NatSource.RFC5780)


async def test_a_server_that_cannot_contradict_does_not_confirm(stun_server: StunServer) -> None:
    plain = [await StunServer.start([ip]) for ip in ("127.0.0.1", "127.0.0.2")]
    serving.update(asyncio.all_tasks() - {task for task in [asyncio.current_task()] if task})
    memory = Memory(known(Filtering.EIF))
    servers = [server.endpoints[0] for server in plain]
    report = await probed(FilteredNetwork(FILTERS[Filtering.APDF]), servers, memory.recall)
    assert (report.behaviour.filtering, report.source) == (Filtering.UNKNOWN, NatSource.RFC5780)
    for server in plain:
        await server.close()


async def test_an_exit_that_is_another_one_over_udp_is_not_confirmed(stun_server: StunServer) -> None:
    async def elsewhere(_: str) -> KnownNat:
        return KnownNat(Exit.of("test", "198.51.100.9"), known(Filtering.EIF), 0.0)

    report = await probed(FilteredNetwork(FILTERS[Filtering.EIF]), stun_server.endpoints, elsewhere)
    assert report.source is NatSource.RFC5780


async def test_where_udp_is_known_to_be_blocked_the_answer_over_tcp_suffices(
    stun_server: StunServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 60)
    memory = Memory(BLOCKED)
    report = await probed(FilteredNetwork(lambda source, sent: False), stun_server.endpoints, memory.recall)
    assert (report.behaviour, report.source, report.external_ip) == (BLOCKED, NatSource.OBSERVATORY, HOME)
    assert report.packets_sent is not None
    assert report.packets_sent >= 2 * 3 + 3, "requests over UDP until then, and SYN, ACK and request over TCP"


async def test_blocked_udp_that_is_open_again_is_found_so(stun_server: StunServer) -> None:
    report = await probed(FilteredNetwork(FILTERS[Filtering.APDF]), stun_server.endpoints, Memory(BLOCKED).recall)
    assert (report.behaviour.udp, report.behaviour.filtering) == (True, Filtering.APDF)
    assert report.source is NatSource.RFC5780


async def test_udp_that_has_been_blocked_since_is_found_so(
    stun_server: StunServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natprobe, "UDP_TIMEOUT_S", 0.4)
    memory = Memory(known(Filtering.EIF))
    report = await probed(FilteredNetwork(lambda source, sent: False), stun_server.endpoints, memory.recall)
    assert (report.behaviour.udp, report.source, memory.asked) == (False, NatSource.RFC5780, [HOME])


async def test_a_memory_that_is_never_heard_of_again_costs_the_deadline(stun_server: StunServer) -> None:
    async def silent(_: str) -> KnownNat | None:
        await asyncio.Event().wait()
        return None

    report = await probe(
        FilteredNetwork(FILTERS[Filtering.EIF]), stun_server.endpoints, af=4, timeout_s=0.3, recall=silent
    )
    assert (report.external_ip, report.source) == (HOME, NatSource.RFC5780)
