"""The delay of lines, in user space: one process carries Ethernet frames between pairs of TAP devices.

Run as `python -m warpfleet.lab.wire CONFIG`, where CONFIG is a JSON list of
`{"a": [namespace, device], "b": [namespace, device], "delay_ms": 20.0}`. Prints `ready` once every device is attached.
"""

import errno
import fcntl
import gc
import heapq
import json
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from warpfleet.lab.netns import inside

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_FRAME_BYTES = 65_535
# Frames read from one device before the others have their turn.
_BURST_FRAMES = 64


@dataclass(slots=True)
class _Direction:
    """One direction of a line. Its delay is constant, so its frames leave in the order in which they came."""

    target: int
    delay_s: float
    frames: deque[tuple[float, bytes]] = field(default_factory=deque)


def attach(namespace: str, device: str) -> int:
    """A descriptor that reads and writes the frames of a TAP device of a namespace."""
    with inside(namespace):
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


class Wire:
    """All lines of a laboratory. `run` returns when the last device is gone."""

    def __init__(self, lines: list[tuple[int, int, float]]) -> None:
        self._epoll = select.epoll()
        self._directions: dict[int, _Direction] = {}
        self._due: list[tuple[float, int]] = []  # heap: when the first frame of a direction leaves, and its source
        for a, b, delay_s in lines:
            self._directions[a], self._directions[b] = _Direction(b, delay_s), _Direction(a, delay_s)
            self._epoll.register(a, select.EPOLLIN)
            self._epoll.register(b, select.EPOLLIN)

    def run(self) -> None:
        """Carry frames until no device is left."""
        watched = [self._epoll.fileno()]
        while self._directions:
            # An epoll waits in whole milliseconds; a select on the epoll itself in microseconds.
            timeout_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            if select.select(watched, (), (), timeout_s)[0]:
                for source, _ in self._epoll.poll(0):
                    self._take(source)
            self._deliver()

    def _take(self, source: int) -> None:
        direction = self._directions[source]
        due_s = time.monotonic() + direction.delay_s
        for _ in range(_BURST_FRAMES):
            try:
                frame = os.read(source, _FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._drop(source, error)
                return
            if not direction.frames:
                heapq.heappush(self._due, (due_s, source))
            direction.frames.append((due_s, frame))

    def _deliver(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            _, source = heapq.heappop(self._due)
            direction = self._directions.get(source)
            if direction is None:
                continue
            frames = direction.frames
            while frames and frames[0][0] <= now_s:
                _send(direction.target, frames.popleft()[1])
            if frames:
                heapq.heappush(self._due, (frames[0][0], source))

    def _drop(self, source: int, error: OSError) -> None:
        """Forget a device whose namespace has been deleted."""
        if error.errno not in (errno.EBADFD, errno.EIO, errno.ENODEV):
            raise error
        self._epoll.unregister(source)
        del self._directions[source]


def _send(target: int, frame: bytes) -> None:
    """Hand a frame to the kernel; a device that is down or full loses it, as a line would."""
    try:
        os.write(target, frame)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EIO, errno.EBADFD, errno.EINVAL, errno.ENOBUFS):
            raise


def main(config: Path) -> None:
    """Attach every device that the file names, say `ready`, and carry frames."""
    lines = [
        (attach(*line["a"]), attach(*line["b"]), line["delay_ms"] / 1000) for line in json.loads(config.read_text())
    ]
    wire = Wire(lines)
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    wire.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
