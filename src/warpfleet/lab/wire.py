"""The delay, jitter and loss of lines, in user space, for kernels without netem: one process carries the frames of a
whole laboratory.

Each end of such a line is a veth pair whose other half stands in a namespace that has nothing but this process. It
reads frames from packet sockets there and writes them to the line's other half when they are due. Frames keep their
offload header (`PACKET_VNET_HDR`), so checksums may be left to do and segments of one TCP burst travel as one frame.

Run as `python -m warpfleet.lab.wire CONFIG` inside that namespace, where CONFIG is a JSON list of
`{"a": device, "b": device, "quality": {"delay_ms": 20.0, "jitter_ms": 0.0, "loss": 0.0}}`. Prints `ready` once every
device is attached.
"""

import errno
import gc
import heapq
import itertools
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from warpfleet.configs.line import LineQuality

_ETH_P_ALL = 0x0003  # linux/if_ether.h
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h: beyond the system's limit, which holds some hundred frames
_FRAME_BYTES = 10 + 14 + 65_536  # offload header, Ethernet header, the largest segment burst
# Hundreds of sockets may probe at once; the kernel counts about a kilobyte for the smallest frame.
_BUFFER_BYTES = 8 * 1024 * 1024
# Frames read from one device before the others have their turn.
_BURST_FRAMES = 64
_CLOSERS = 64
# A frame that waits for the processor is late; on a busy machine the wire goes first.
_NICENESS = -10


@dataclass(frozen=True, slots=True)
class _Direction:
    source: socket.socket
    target: socket.socket
    quality: LineQuality


def attach(device: str) -> socket.socket:
    """A non-blocking packet socket that reads and writes the frames of a device of this namespace."""
    attached = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    attached.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    attached.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    try:
        attached.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:  # inside a user namespace the system's limit holds
        attached.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    attached.setblocking(False)
    attached.bind((device, _ETH_P_ALL))
    return attached


class Wire:
    """All lines of a laboratory that do something to packets, as pairs of sockets. `chance` gives numbers of [0, 1)."""

    def __init__(
        self,
        lines: list[tuple[socket.socket, socket.socket, LineQuality]],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._epoll = select.epoll()
        self._directions: dict[int, _Direction] = {}
        # Heap: when a frame leaves, its number (those of one instant leave in the order in which they came), where to.
        self._due: list[tuple[float, int, socket.socket, bytes]] = []
        self._numbers = itertools.count()
        self._chance = chance
        for a, b, quality in lines:
            for source, target in ((a, b), (b, a)):
                self._directions[source.fileno()] = _Direction(source, target, quality)
                self._epoll.register(source, select.EPOLLIN)

    def run(self) -> None:
        """Carry frames for ever."""
        while True:
            self.step()

    def close(self) -> None:
        """Close every socket. The kernel waits a grace period for each, so they are closed many at once."""
        with ThreadPoolExecutor(_CLOSERS) as pool:
            list(pool.map(socket.socket.close, (direction.source for direction in self._directions.values())))

    def step(self) -> None:
        """Wait for the next frame to come or to be due, then take and deliver what there is."""
        # An epoll waits in whole milliseconds; a select on the epoll itself in microseconds.
        timeout_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
        if select.select((self._epoll,), (), (), timeout_s)[0]:
            for source, _ in self._epoll.poll(0):
                self._take(source)
        self._deliver()

    def _take(self, source: int) -> None:
        direction = self._directions[source]
        read, target, quality = direction.source.recv, direction.target, direction.quality
        due_s = time.monotonic() + quality.delay_ms / 1000
        with suppress(BlockingIOError):
            for _ in range(_BURST_FRAMES):
                frame = read(_FRAME_BYTES)
                if quality.loss and self._chance() < quality.loss:
                    continue
                late_s = self._chance() * quality.jitter_ms / 1000 if quality.jitter_ms else 0.0
                heapq.heappush(self._due, (due_s + late_s, next(self._numbers), target, frame))

    def _deliver(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            _, _, target, frame = heapq.heappop(self._due)
            _send(target, frame)


def _send(target: socket.socket, frame: bytes) -> None:
    """Hand a frame to the kernel; a device that is down or full loses it, as a line would."""
    try:
        target.send(frame)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENETDOWN, errno.ENOBUFS, errno.ENXIO):
            raise


def main(config: Path) -> None:
    """Attach every device that the file names, say `ready`, and carry frames until SIGTERM."""
    with suppress(PermissionError):  # as an ordinary user it has to wait its turn
        os.nice(_NICENESS)
    lines = json.loads(config.read_text())
    wire = Wire([(attach(line["a"]), attach(line["b"]), LineQuality(**line["quality"])) for line in lines])
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        wire.run()
    finally:
        wire.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
