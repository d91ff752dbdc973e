"""How far this host's clock is off, by several NTP servers (RFC 5905), with a bound on the error."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ntplib

from warpfleet.core.errors import InputError

InVantage = Callable[[Callable[[], ntplib.NTPStats]], ntplib.NTPStats]
"""Runs a blocking function, in the calling thread, where sockets open at the node's vantage."""

_QUERIES_PER_SERVER = 3  # the one with the least delay is kept: clock filter, RFC 5905 section 10
_PORT = 123  # RFC 5905 section 7.2
_UNSYNCHRONISED_STRATUM = 16  # RFC 5905 section 7.3; 0 is a kiss-of-death packet
_UNSYNCHRONISED_LEAP = 3  # RFC 5905 section 7.3
_PRECISION_S = 1e-4  # reading the clock in Python around a system call

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClockSample:
    """One server's word: true time = this clock + `offset_s`, give or take `error_s`."""

    server: str
    offset_s: float
    error_s: float

    @property
    def low_s(self) -> float:
        """The least offset that this allows."""
        return self.offset_s - self.error_s

    @property
    def high_s(self) -> float:
        """The greatest offset that this allows."""
        return self.offset_s + self.error_s


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """True time = this clock + `offset_s`, give or take `error_s`; `servers` agreed on it."""

    offset_s: float
    error_s: float
    servers: tuple[str, ...]


def estimate(samples: Sequence[ClockSample]) -> ClockEstimate | None:
    """The interval that more than half of the servers agree on, in the manner of RFC 5905 section 11.2.1.

    A server is right if true time lies within its error bound; so it lies in the intersection of those that are
    right, and a minority that lies is left out. None where there is no such majority.
    """
    best: list[ClockSample] = []
    for edge in samples:
        agreeing = [sample for sample in samples if sample.low_s <= edge.low_s <= sample.high_s]
        if (len(agreeing), -_width(agreeing)) > (len(best), -_width(best)):
            best = agreeing
    if 2 * len(best) <= len(samples):
        return None
    low, high = _intersection(best)
    return ClockEstimate((low + high) / 2, (high - low) / 2, tuple(sorted(sample.server for sample in best)))


def best_offset_s(clocks: Iterable[ClockEstimate | None]) -> float:
    """The offset of the estimate with the least error; 0 where there is none, and the machine's clock must do."""
    known = [clock for clock in clocks if clock]
    return min(known, key=lambda clock: clock.error_s).offset_s if known else 0.0


async def measure(
    servers: Iterable[str], timeout_s: float, in_vantage: InVantage = lambda query: query()
) -> ClockEstimate | None:
    """Ask every server at once, `host` or `host:port`; those that do not answer in time are left out.

    None where none answers, or no majority agrees. Sockets open in threads, through `in_vantage`.
    """
    servers = tuple(dict.fromkeys(servers))
    if not servers:
        return None
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(len(servers), thread_name_prefix="ntp")
    try:
        queries = [loop.run_in_executor(executor, _ask, server, timeout_s, in_vantage) for server in servers]
        done, _ = await asyncio.wait(queries, timeout=timeout_s)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return estimate([sample for query in done if (sample := query.result()) is not None])


def sample_of(server: str, stats: ntplib.NTPStats) -> ClockSample | None:
    """What one answer says; None where the server itself is not synchronised.

    The error bound is the root synchronisation distance: half the delay to the server and from it to the reference
    clock, and the dispersion gathered on that way (RFC 5905 section 11.2 and appendix A.5.5.2).
    """
    if not 0 < stats.stratum < _UNSYNCHRONISED_STRATUM or stats.leap == _UNSYNCHRONISED_LEAP:
        return None
    delay_s = max(stats.delay, 0.0) + stats.root_delay
    return ClockSample(server, stats.offset, delay_s / 2 + stats.root_dispersion + _PRECISION_S)


def _ask(server: str, timeout_s: float, in_vantage: InVantage) -> ClockSample | None:
    """The best of a few queries to one server, or None. Blocks for at most the timeout."""
    host, port = _split(server)
    samples = []
    for _ in range(_QUERIES_PER_SERVER):
        try:
            stats = in_vantage(
                lambda: ntplib.NTPClient().request(host, version=4, port=port, timeout=timeout_s / _QUERIES_PER_SERVER)
            )
        except (ntplib.NTPException, OSError) as error:
            log.debug("NTP server %s: %s", server, error)
            continue
        if (sample := sample_of(server, stats)) is not None:
            samples.append(sample)
    return min(samples, key=lambda sample: sample.error_s, default=None)


def _split(server: str) -> tuple[str, int]:
    host, separator, port = server.rpartition(":")
    if not separator or (":" in host and not host.startswith("[")):
        return server.strip("[]"), _PORT
    if not port.isdecimal():
        raise InputError(f"services.ntp: {server!r} is no HOST or HOST:PORT")
    return host.strip("[]"), int(port)


def _intersection(samples: Iterable[ClockSample]) -> tuple[float, float]:
    return max(sample.low_s for sample in samples), min(sample.high_s for sample in samples)


def _width(samples: Sequence[ClockSample]) -> float:
    if not samples:
        return float("inf")
    low, high = _intersection(samples)
    return high - low
