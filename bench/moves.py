"""One pipe that moves from a relay to a direct path and back, again and again, while a stream of bytes crosses it:
whether they arrive as they were sent. A laboratory of two NATs, whose direct path is cut and mended.

python -m bench.moves [MEBIBYTES] [TIMES]
"""

import asyncio
import hashlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from warpfleet.cli.options import load_fleet, sayer
from warpfleet.cluster.pair import open_pair
from warpfleet.configs.topology import Topology
from warpfleet.core.combo import Policy
from warpfleet.core.consent import EXPIRY_S, HOLD_MAX_S
from warpfleet.core.errors import WarpfleetError
from warpfleet.lab import netns, rootless
from warpfleet.lab.laboratory import laboratory
from warpfleet.net.interfaces import Pipe

NEAR, FAR = "full_cone", "addr_restricted"
_TOPOLOGY = {"version": 1, "name": "bench-moves", "hosts": [{"name": name, "nat": name} for name in (NEAR, FAR)]}
_CHUNK_BYTES = 65_536
_MOVED_WITHIN_S = EXPIRY_S + HOLD_MAX_S  # a move that has not come by then never comes
_LOOK_S = 0.05
_CUT = """table inet cut {{
    chain sent {{ type filter hook output priority 0; ip daddr {ip} drop; }}
    chain received {{ type filter hook input priority 0; ip saddr {ip} drop; }}
}}"""
_say = sayer("bench")


@dataclass(frozen=True, slots=True)
class Crossed:
    """What has crossed the pipe. `paths` are those it had while bytes crossed it, `True` for a relayed one."""

    sent_bytes: int
    sent_sha256: str
    received_bytes: int
    received_sha256: str
    paths: tuple[bool, ...]
    took_s: float

    @property
    def identical(self) -> bool:
        """Whether what arrived is what was sent."""
        return (self.sent_bytes, self.sent_sha256) == (self.received_bytes, self.received_sha256)

    def __str__(self) -> str:
        ways = " - ".join("relay" if relayed else "direct" for relayed in self.paths)
        same = "byte-identical" if self.identical else f"NOT the same: {self.received_bytes} bytes arrived"
        rate = self.sent_bytes / self.took_s / 1e6
        return f"{self.sent_bytes} bytes over {ways} in {self.took_s:.0f} s ({rate:.1f} MB/s): {same}"


async def cross(total_bytes: int, times: int, *, name: str | None = None) -> Crossed:
    """Send at least so many bytes through a pipe that goes so many times to the direct path and back to the relay.
    Bytes are sent until it has; TimeoutError where it does not move. `name` is that of the laboratory."""
    with laboratory(Topology.model_validate(_TOPOLOGY), name=name, progress=_say, take_over=True) as lab:
        async with open_pair(load_fleet(lab.fleet_path), NEAR, FAR) as (near, far):
            cut = partial(_cut, lab.netns(NEAR), far.view.external[4])
            with cut():  # else the direct path may be there first, and no relay be used
                pipe = await near.connect(FAR, policy=Policy.RELAY_FIRST)
                arrived = await anext(far.accept())
            paths = [True]
            done = asyncio.Event()
            began_s = time.monotonic()
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_send(pipe, total_bytes, done.is_set))
                receiving = group.create_task(_receive(arrived))
                await _walk(pipe, cut, times, paths)
                done.set()
            took_s = time.monotonic() - began_s
            return Crossed(*sending.result(), *receiving.result(), tuple(paths), took_s)


async def _walk(pipe: Pipe, cut: Callable[[], AbstractContextManager[None]], times: int, paths: list[bool]) -> None:
    for _ in range(times):
        await _until(pipe, relayed=False, paths=paths)
        with cut():
            await _until(pipe, relayed=True, paths=paths)


async def _until(pipe: Pipe, *, relayed: bool, paths: list[bool]) -> None:
    async with asyncio.timeout(_MOVED_WITHIN_S):
        while pipe.path.relayed is not relayed:  # noqa: ASYNC110 - a pipe tells nobody that it has moved
            await asyncio.sleep(_LOOK_S)
    if paths[-1] is not relayed:
        paths.append(relayed)
        _say("on the relay" if relayed else "on the direct path")


@contextmanager
def _cut(namespace: str, ip: str) -> Iterator[None]:
    """No packet from here to that address or back."""
    with netns.inside(namespace):
        netns.run(["nft", "-f", "-"], _CUT.format(ip=ip))
    try:
        yield
    finally:
        with netns.inside(namespace):
            netns.run(["nft", "delete", "table", "inet", "cut"])


async def _send(pipe: Pipe, least_bytes: int, done: Callable[[], bool]) -> tuple[int, str]:
    """How many bytes were sent, and their hash."""
    total_bytes, digest, chance = 0, hashlib.sha256(), random.Random(0)
    while total_bytes < least_bytes or not done():
        data = chance.randbytes(_CHUNK_BYTES)
        digest.update(data)
        total_bytes += len(data)
        await pipe.send(data)
    await pipe.send_eof()
    return total_bytes, digest.hexdigest()


async def _receive(pipe: Pipe) -> tuple[int, str]:
    total_bytes, digest = 0, hashlib.sha256()
    async for data in pipe:
        digest.update(data)
        total_bytes += len(data)
    return total_bytes, digest.hexdigest()


def main(mebibytes: int = 1024, times: int = 3) -> None:
    """Say what has crossed. Exit status 1 where it is not the same at the other end."""
    rootless.ensure_privilege()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder
        crossed = asyncio.run(cross(mebibytes * 2**20, times))
    print(crossed)
    if not crossed.identical:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except WarpfleetError as error:
        sys.exit(f"bench: {error}")
