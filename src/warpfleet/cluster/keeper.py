"""The process that Ray lives under. It ends with its parent, however that ends, and takes all of Ray with it.

Run as `python -m warpfleet.cluster.keeper FOLDER`: prints Ray's address, then waits for the end of its input.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import ray

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans below this process become its children, so that none escapes
_SHUTDOWN_S = 5.0
# Telemetry, signals and batches are kilobytes: the smallest store that Ray accepts without complaint.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024


def main(folder: Path) -> None:
    """Start Ray in a private folder, keep it until the parent is gone, then leave nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        context: Any = ray.init(
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            namespace="warpfleet",
            _temp_dir=str(folder / "ray"),
            _node_ip_address="127.0.0.1",
        )
        print(json.dumps({"address": context.address_info["address"]}), flush=True)  # noqa: T201 - the parent reads it
        sys.stdin.buffer.read()
    finally:
        _end_all(folder)


def _end_all(folder: Path) -> None:
    with contextlib.suppress(Exception):
        ray.shutdown()
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=_SHUTDOWN_S)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
