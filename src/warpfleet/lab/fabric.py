"""The fabric of a laboratory: its namespaces, the links between them, and what its lines do to packets.

Where the kernel has netem, a delayed line is one veth pair with netem at both ends. Where it has not, each end is a
veth pair of its own whose other half stands in the `wire` namespace, and the wire process carries frames between them.
"""

import json
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from warpfleet.configs.line import PERFECT, LineQuality
from warpfleet.configs.topology import CORE, WIRE
from warpfleet.core.errors import MissingError
from warpfleet.lab import netns, processes
from warpfleet.lab.plan import NO_IPV6, End, Link, Namespace, Plan, namespace_name
from warpfleet.lab.processes import Owned
from warpfleet.lab.servers import private_file

_WIRE_DEADLINE_S = 15.0
_POLL_S = 0.01
# A line holds what is under way: far more than the thousand packets that netem holds unless told.
_NETEM_LIMIT = 100_000
# Namespaces filled at once. Each is two short processes, which mostly wait for one lock of the kernel.
_WORKERS = 4


def weave(plan: Plan, folder: Path) -> list[Owned]:
    """Make everything of a plan but its servers. The wire process where there is one, which may not be ready yet."""
    netns.batch(f"netns add {namespace.name}" for namespace in plan.namespaces)
    for namespace in plan.namespaces:
        with netns.inside(namespace.name):
            netns.write_sysctls(namespace.sysctls)
    delayed = [link for link in plan.links if link.quality != PERFECT]
    netem = bool(delayed) and netns.has_netem(namespace_name(plan.lab, CORE))
    netns.batch(_pair(link.a, link.b) for link in plan.links if netem or link not in delayed)
    wire = [] if netem or not delayed else _start_wire(plan.lab, delayed, folder)
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(_fill, plan.namespaces))
    if netem:
        _delay_in_kernel(delayed)
    return wire


def _fill(namespace: Namespace) -> None:
    with netns.inside(namespace.name):
        netns.batch(namespace.commands)
        if namespace.ruleset:
            netns.run(["nft", "-f", "-"], namespace.ruleset)


def await_wire(wire: Owned, folder: Path) -> None:
    """Return once the wire carries frames. MissingError where it does not start."""
    log = folder / "wire.log"
    deadline_s = time.monotonic() + _WIRE_DEADLINE_S
    while "ready" not in (text := log.read_text(errors="replace")):
        if not wire.alive or time.monotonic() > deadline_s:
            raise MissingError(f"the wire did not start: {(text.strip().splitlines() or ['it said nothing'])[-1]}")
        time.sleep(_POLL_S)


def _pair(a: End, b: End) -> str:
    return (
        f"link add name {a.device} netns {a.namespace} address {a.mac}"
        f" type veth peer name {b.device} netns {b.namespace} address {b.mac}"
    )


def _start_wire(lab: str, delayed: list[Link], folder: Path) -> list[Owned]:
    place = namespace_name(lab, WIRE)
    lines, pairs = [], []
    for index, link in enumerate(delayed):
        lines.append({"a": f"a{index}", "b": f"b{index}", "quality": asdict(link.quality)})
        for end, device in ((link.a, f"a{index}"), (link.b, f"b{index}")):
            # The half in between is nobody's address: frames pass it whatever their destination.
            pairs.append(_pair(end, End(place, device, "02" + end.mac[2:].replace("57:46", "57:57"))))
    netns.batch([f"netns add {place}"])
    config = private_file(folder / "wire.json", json.dumps(lines))
    with netns.inside(place):
        netns.write_sysctls(NO_IPV6)
    netns.batch(pairs)
    with netns.inside(place):
        netns.batch(f"link set {line[end]} up" for line in lines for end in ("a", "b"))
        return [processes.start("wire", [sys.executable, "-m", "warpfleet.lab.wire", str(config)], folder / "wire.log")]


def _delay_in_kernel(delayed: list[Link]) -> None:
    by_namespace = defaultdict(list)
    for link in delayed:
        for end in (link.a, link.b):
            by_namespace[end.namespace].append(f"qdisc add dev {end.device} root {_netem(link.quality)}")
    for namespace, commands in by_namespace.items():
        with netns.inside(namespace):
            netns.run(["tc", "-batch", "-"], "\n".join(commands) + "\n")


def _netem(quality: LineQuality) -> str:
    """netem draws evenly from the delay, less or more the jitter."""
    jitter_ms = quality.jitter_ms / 2
    delay = f"delay {quality.delay_ms + jitter_ms}ms" + (f" {jitter_ms}ms" if jitter_ms else "")
    loss = f" loss {100 * quality.loss}%" if quality.loss else ""
    return f"netem {delay}{loss} limit {_NETEM_LIMIT}"
