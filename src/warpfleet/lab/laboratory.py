"""A laboratory: brought up from a topology, listed, taken down without a trace.

Its state is a folder below `state_dir()` that only its owner can enter. The fleet file is written last: a folder
without one is a laboratory that was never finished, which the next `up` of its name clears away, as `down` does.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from warpfleet.configs.topology import CORE, LabName, Topology
from warpfleet.core.errors import InputError
from warpfleet.lab import fabric, guard, netns, port_mapper, processes, rootless, servers
from warpfleet.lab.plan import Plan, layout, namespace_name, namespace_prefix
from warpfleet.lab.processes import Owned

Progress = Callable[[str], None]

_FLEET, _PROCESSES = "fleet.yaml", "processes.json"


@dataclass(frozen=True, slots=True)
class Lab:
    """A laboratory that is up."""

    name: str
    folder: Path

    @property
    def fleet_path(self) -> Path:
        """The fleet file of its hosts and servers."""
        return self.folder / _FLEET

    @property
    def namespaces(self) -> list[str]:
        """The network namespaces that it consists of."""
        return netns.existing(namespace_prefix(self.name))

    @property
    def processes(self) -> list[Owned]:
        """Its servers, and the wire where there is one."""
        return _recorded(self.folder)

    def netns(self, place: str) -> str:
        """The namespace of a host, of a named router, of a host's own router (`HOST.router`), or of `core`."""
        return namespace_name(self.name, place)


def up(topology: Topology, *, name: str | None = None, progress: Progress = lambda _: None) -> Lab:
    """Build a laboratory and return once its servers answer. `name` is the topology's unless given.

    InputError where one of that name is up, MissingError where a program or privilege is not there. Whatever fails or
    interrupts it, nothing is left behind.
    """
    plan = layout(topology, _checked(name) if name else topology.name)
    with _locked() as base:
        folder = base / plan.lab
        if (folder / _FLEET).exists():
            raise InputError(
                f"laboratory '{plan.lab}' is up already; take it down first: warpfleet lab down {plan.lab}"
            )
        _clear(base, plan.lab)
        try:
            folder.mkdir(mode=0o700)
            _build(plan, folder, progress)
        except BaseException:
            _clear(base, plan.lab)
            raise
    return Lab(plan.lab, folder)


def down(name: str) -> None:
    """Take a laboratory down, whatever state it is in. InputError where nothing of that name is there."""
    with _locked() as base:
        if name not in _present(base):
            known = ", ".join(_present(base)) or "none"
            raise InputError(f"no laboratory '{name}' is up (up: {known})")
        _clear(base, name)
        if not _present(base):
            rootless.release()


def names() -> list[str]:
    """The laboratories that are up, or were left half-made."""
    return list(listed())


def listed() -> dict[str, Path | None]:
    """The laboratories by name with their fleet files; None for one that was left half-made."""
    base = rootless.state_dir()
    found = {name: base / name / _FLEET for name in _present(base)}
    if not found:
        rootless.release()
    return {name: path if path.exists() else None for name, path in found.items()}


@contextmanager
def laboratory(
    topology: Topology, *, name: str | None = None, progress: Progress = lambda _: None, take_over: bool = False
) -> Iterator[Lab]:
    """A laboratory for the length of a `with` block.

    With `take_over`, one of the same name that a killed process left behind is taken down first; InputError where a
    living process is using it.
    """
    if take_over:
        _take_down_abandoned(name or topology.name)
    lab = up(topology, name=name, progress=progress)
    in_use = rootless.try_lock(lab.folder)
    try:
        yield lab
    finally:
        if in_use is not None:
            os.close(in_use)
        down(lab.name)


def _take_down_abandoned(name: str) -> None:
    if name not in names():
        return
    in_use = rootless.try_lock(rootless.state_dir() / name)
    if in_use is None:
        raise InputError(f"laboratory '{name}' is in use by another command; wait until that has ended")
    os.close(in_use)
    down(name)


def _checked(name: str) -> str:
    try:
        return TypeAdapter(LabName).validate_python(name)
    except ValidationError:
        raise InputError(f"'{name}' cannot name a laboratory; use 1 to 24 of a-z, 0-9, '_' and '-'") from None


@contextmanager
def _locked() -> Iterator[Path]:
    """One command at a time builds or clears laboratories of this user."""
    base = rootless.state_dir()
    with rootless.locked(base):
        yield base


def _present(base: Path) -> list[str]:
    folders = {path.name for path in base.iterdir() if path.is_dir()}
    return sorted(folders | {name.split(".")[1] for name in netns.existing("wf.")})


def _build(plan: Plan, folder: Path, progress: Progress) -> None:
    progress(f"{len(plan.nodes)} hosts, {len(plan.namespaces)} namespaces")
    guard.shut()
    wire = fabric.weave(plan, folder)
    progress("servers")
    core = namespace_name(plan.lab, CORE)
    specified, services = servers.configure(folder, core=core, broker=plan.broker, dual_stack=plan.dual_stack)
    specified += [port_mapper.configure(place, folder) for place in plan.namespaces if place.port_mapping]
    running = servers.start(specified, folder)
    _record(folder, [*wire, *running])
    servers.await_answers(specified, running, folder)
    for process in wire:
        fabric.await_wire(process, folder)
    _write_fleet(plan, services, folder)


def _write_fleet(plan: Plan, services: dict[str, object], folder: Path) -> None:
    nodes = [
        {"name": node.name, "vantage": {"netns": node.namespace}, "listen": list(node.listen)} for node in plan.nodes
    ]
    fleet = {"version": 1, "name": plan.lab, "realm": plan.realm, "services": services, "nodes": nodes}
    draft = servers.private_file(folder / "fleet.draft", yaml.safe_dump(fleet, sort_keys=False))
    draft.rename(folder / _FLEET)


def _record(folder: Path, running: list[Owned]) -> None:
    servers.private_file(folder / _PROCESSES, json.dumps([asdict(process) for process in running]))


def _recorded(folder: Path) -> list[Owned]:
    try:
        return [Owned(**entry) for entry in json.loads((folder / _PROCESSES).read_text())]
    except (FileNotFoundError, json.JSONDecodeError):  # killed before or while it was written: found by namespace
        return []


def _clear(base: Path, name: str) -> None:
    """Remove whatever is there of a laboratory: recorded processes, those in its namespaces, namespaces, files."""
    folder = base / name
    (folder / _FLEET).unlink(missing_ok=True)
    processes.stop(_recorded(folder))
    namespaces = netns.existing(namespace_prefix(name))
    strays = [processes.owned("stray", pid) for pid in netns.processes_inside(namespaces)]
    processes.stop([process for process in strays if process is not None])
    netns.delete(namespaces)
    if folder.exists():
        shutil.rmtree(folder)
    if not _present(base):
        guard.open_again()
