"""A lease on virtual time: granted, renewed, lost, granted anew, released; and which protocol is asked."""

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtual_time import now_s, virtual_time
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import MissingError
from warpfleet.core.port_mapping import PortMapping
from warpfleet.net.portmap.client import LIFETIME_S, PATIENCE_S, GatewayClient
from warpfleet.net.portmap.lease import RENEWAL_MIN_S, SEARCH_AGAIN_S, renewal_s
from warpfleet.net.portmap.mapping import GatewaySilent, Granted, MappingRefused

PORT = 4444
EXTERNAL = Endpoint("203.0.113.7", 5555)
ROUND_TRIP_S = 0.01
SILENCE_S = 0.7


@dataclass(eq=False)
class Gateway:
    """One protocol of a gateway in memory, and what it was asked at which second."""

    protocol: PortMapping = PortMapping.PCP
    silent: bool = False
    refuses: bool = False
    external: Endpoint = EXTERNAL
    lifetime_s: float = LIFETIME_S
    began_s: float = 0.0
    greet_s: float = ROUND_TRIP_S
    map_s: float = ROUND_TRIP_S
    epoch: Callable[[], int] | None = None
    fails: dict[int, Exception] = field(default_factory=dict)  # by port, when it is to be unmapped
    asked: list[tuple[float, str, int]] = field(default_factory=list)

    async def greet(self) -> None:
        self.asked.append((round(now_s(), 2), "greet", 0))
        await asyncio.sleep(SILENCE_S if self.silent else self.greet_s)
        if self.silent:
            raise GatewaySilent("silent")

    async def map(self, port: int, *, suggested: int, lifetime_s: float) -> Granted:
        self.asked.append((round(now_s(), 2), "map", suggested))
        await asyncio.sleep(self.map_s)
        if self.silent:
            raise GatewaySilent("silent")
        if self.refuses:
            raise MappingRefused("no")
        epoch_s = self.epoch() if self.epoch else int(now_s() - self.began_s)
        return Granted(self.external, min(self.lifetime_s, lifetime_s), epoch_s)

    async def unmap(self, port: int, external: Endpoint) -> None:
        self.asked.append((round(now_s(), 2), "unmap", external.port))
        await asyncio.sleep(ROUND_TRIP_S)
        if port in self.fails:
            raise self.fails[port]

    def times(self, what: str) -> list[float]:
        """When that was asked."""
        return [at for at, asked, _ in self.asked if asked == what]


def client(*gateways: Gateway) -> GatewayClient:
    async def mappers() -> tuple[Gateway, ...]:
        return gateways

    return GatewayClient(mappers, chance=lambda: 0.0)


@virtual_time
async def test_it_is_granted_renewed_at_half_its_lifetime_and_released() -> None:
    gateway = Gateway()
    asking = client(gateway)
    lease = asking.lease(PORT)
    assert await lease.changed() == EXTERNAL
    await lease.settled()
    assert now_s() < 0.2
    await asyncio.sleep(1.9 * LIFETIME_S)
    await asking.close()
    assert [(what, port) for _, what, port in gateway.asked] == [
        ("greet", 0),
        ("map", PORT),
        *[("map", EXTERNAL.port)] * 3,
        ("unmap", EXTERNAL.port),
    ]
    assert [round(at / LIFETIME_S, 2) for at in gateway.times("map")] == [0, 0.5, 1, 1.5]


@virtual_time
async def test_a_renewal_that_fails_is_tried_again_sooner_until_the_mapping_has_run_out() -> None:
    gateway = Gateway()
    asking = client(gateway)
    lease = asking.lease(PORT)
    assert await lease.changed() == EXTERNAL
    granted_s = now_s()
    gateway.silent = True
    assert await lease.changed() is None
    assert LIFETIME_S <= now_s() - granted_s < LIFETIME_S + RENEWAL_MIN_S + 1
    gaps = [b - a for a, b in zip(gateway.times("map"), gateway.times("map")[1:], strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert min(gaps) >= RENEWAL_MIN_S
    gateway.silent = False
    assert await lease.changed() == EXTERNAL
    await asking.close()


@virtual_time
async def test_where_no_gateway_answers_that_is_settled_soon_and_asked_again_much_later() -> None:
    gateway = Gateway(silent=True)
    asking = client(gateway)
    leases = [asking.lease(port) for port in (1, 2, 3)]
    await asyncio.gather(*(lease.settled() for lease in leases))
    assert now_s() == PATIENCE_S
    await asyncio.sleep(SEARCH_AGAIN_S * 1.5)
    assert gateway.times("greet") == [0, SEARCH_AGAIN_S], "one question is enough for all ports"
    assert gateway.times("map") == []
    await asking.close()


@virtual_time
async def test_a_gateway_that_has_answered_is_waited_for_and_a_late_one_maps_all_the_same() -> None:
    slow, late = Gateway(map_s=2.0), Gateway(greet_s=0.6)
    asking, other = client(slow), client(late)
    leases = asking.lease(PORT), other.lease(PORT)
    await leases[1].settled()
    assert now_s() == PATIENCE_S
    assert await leases[1].changed() == EXTERNAL
    assert now_s() < 1
    await leases[0].settled()
    assert now_s() > 2
    assert await leases[0].changed() == EXTERNAL
    await asyncio.gather(asking.close(), other.close())


@virtual_time
async def test_without_any_gateway_it_is_settled_at_once() -> None:
    asking = client()
    await asking.lease(PORT).settled()
    assert now_s() == 0
    await asking.close()


@virtual_time
async def test_who_cannot_look_for_a_gateway_looks_again_later() -> None:
    gateway, failures = Gateway(), [OSError(errno.EMFILE, "too many open files"), MissingError("no namespace")]

    async def mappers() -> list[Gateway]:
        if failures:
            raise failures.pop()
        return [gateway]

    asking = GatewayClient(mappers, chance=lambda: 0.0)
    lease = asking.lease(PORT)
    await lease.settled()
    assert now_s() == 0
    assert await lease.changed() == EXTERNAL
    assert gateway.times("map") == [2 * SEARCH_AGAIN_S + ROUND_TRIP_S]
    await asking.close()


@virtual_time
async def test_every_lease_is_released_whatever_becomes_of_one(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(fails={2: OSError(errno.EMFILE, "too many open files")})
    asking = client(gateway)
    leases = [asking.lease(port) for port in (1, 2, 3)]
    await asyncio.gather(*(lease.settled() for lease in leases))
    await asking.close()
    assert len(gateway.times("unmap")) == 3
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [gateway.fails[2]]


@virtual_time
async def test_the_best_protocol_that_answers_is_asked_and_the_next_where_it_refuses() -> None:
    silent, refusing, willing = Gateway(silent=True), Gateway(refuses=True), Gateway(protocol=PortMapping.UPNP)
    asking = client(silent, refusing, willing)
    lease = asking.lease(PORT)
    assert await lease.changed() == EXTERNAL
    assert now_s() < 0.2, "a protocol that nobody speaks is not waited for"
    await asking.close()
    assert (silent.times("map"), len(refusing.times("map")), len(willing.times("map"))) == ([], 1, 1)
    assert len(willing.times("unmap")) == 1


@virtual_time
async def test_what_is_granted_for_no_time_is_refused() -> None:
    none, willing = Gateway(lifetime_s=0), Gateway(protocol=PortMapping.UPNP)
    asking, other = client(none, willing), client(Gateway(lifetime_s=0))
    assert await asking.lease(PORT).changed() == EXTERNAL
    lease = other.lease(PORT)
    await lease.settled()
    told = asyncio.create_task(lease.changed())
    await asyncio.sleep(10)
    assert not told.done()
    told.cancel()
    await asyncio.gather(asking.close(), other.close())
    assert (none.times("unmap"), len(willing.times("unmap"))) == ([], 1)


ELSEWHERE = Endpoint(EXTERNAL.ip, 6666)


@pytest.mark.parametrize(("external", "released"), [(ELSEWHERE, [EXTERNAL.port]), (EXTERNAL, [])])
@virtual_time
async def test_what_another_protocol_holds_is_released_unless_it_is_the_same(
    external: Endpoint, released: list[int]
) -> None:
    first, second = Gateway(), Gateway(protocol=PortMapping.UPNP, external=external)
    asking = client(first, second)
    assert await asking.lease(PORT).changed() == EXTERNAL
    first.refuses = True
    await asyncio.sleep(0.6 * LIFETIME_S)
    assert second.times("unmap") == []
    await asking.close()
    assert [port for _, what, port in first.asked if what == "unmap"] == released
    assert [port for _, what, port in second.asked if what == "unmap"] == [external.port]


@virtual_time
async def test_what_one_protocol_maps_elsewhere_it_has_moved_itself() -> None:
    gateway = Gateway()
    asking = client(gateway)
    lease = asking.lease(PORT)
    assert await lease.changed() == EXTERNAL
    gateway.external = ELSEWHERE
    assert await lease.changed() == ELSEWHERE
    assert gateway.times("unmap") == [], "the mapping that is kept would go with it"
    await asking.close()
    assert [port for _, what, port in gateway.asked if what == "unmap"] == [ELSEWHERE.port]


@virtual_time
async def test_behind_another_nat_the_mapping_is_given_back_and_not_told() -> None:
    gateway = Gateway(external=Endpoint("100.64.0.2", 5555))
    asking = client(gateway)
    lease = asking.lease(PORT)
    await lease.settled()
    assert len(gateway.times("unmap")) == 1
    told = asyncio.create_task(lease.changed())
    await asyncio.sleep(10)
    assert not told.done()
    told.cancel()
    await asking.close()
    assert len(gateway.times("unmap")) == 1


@virtual_time
async def test_a_gateway_that_began_anew_is_asked_for_every_mapping_again() -> None:
    gateway = Gateway()
    asking = client(gateway)
    leases = [asking.lease(port) for port in (1, 2)]
    await asyncio.gather(*(lease.settled() for lease in leases))
    await asyncio.sleep(100)
    late = asking.lease(3)  # whose answer tells
    gateway.began_s = now_s() - 1
    await late.settled()
    await asyncio.sleep(1)
    assert len([at for at in gateway.times("map") if at > 99]) == 3
    await asking.close()


@virtual_time
async def test_a_gateway_whose_clock_jumps_about_is_not_asked_all_the_time() -> None:
    jumps = iter(range(10**9, 0, -1000))
    gateway = Gateway(epoch=lambda: next(jumps))
    asking = client(gateway)
    for port in (1, 2, 3):
        asking.lease(port)
    await asyncio.sleep(400)
    assert len(gateway.times("map")) <= 3 * (400 / RENEWAL_MIN_S + 1)
    await asking.close()


@virtual_time
async def test_what_is_being_asked_for_as_the_lease_closes_is_released_too() -> None:
    gateway = Gateway()
    asking = client(gateway)
    asking.lease(PORT)
    await asyncio.sleep(1.5 * ROUND_TRIP_S)
    assert len(gateway.times("map")) == 1
    await asking.close()
    assert len(gateway.times("unmap")) == 1


@virtual_time
async def test_closing_does_not_wait_for_a_gateway_that_is_silent() -> None:
    asking = client(Gateway(silent=True))
    asking.lease(PORT)
    await asyncio.sleep(0.01)
    await asking.close()
    assert now_s() < 0.05


@given(st.floats(0.1, 1e6), st.floats(0, 1))
def test_a_renewal_comes_after_half_and_before_five_eighths_of_what_is_left(left_s: float, chance: float) -> None:
    wait_s = renewal_s(left_s, chance)
    assert wait_s == RENEWAL_MIN_S or left_s / 2 <= wait_s <= left_s * 5 / 8
    assert wait_s >= RENEWAL_MIN_S
