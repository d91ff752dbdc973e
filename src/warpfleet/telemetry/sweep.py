"""`sweep.json`: what a sweep was told to do, with which versions, and when."""

import os
import platform
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from warpfleet.core.combo import Policy
from warpfleet.core.errors import InputError
from warpfleet.telemetry.durability import sync
from warpfleet.telemetry.records import SCHEMA_VERSION

FILE_NAME = "sweep.json"


# What may differ when a sweep is taken up again: it changes how fast it goes, not which connections it tries.
_FREE_ARGUMENTS = {"out", "resume", "json", "concurrency"}


def versions(**others: str) -> dict[str, str]:
    """The versions of warpfleet and Python, and those of `others`, which the caller runs on."""
    return {"warpfleet": version("warpfleet"), "python": platform.python_version(), **others}


class ClockReading(BaseModel):
    """A node's clock by NTP: true time = its clock + `offset_ms`, give or take `error_ms`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset_ms: float
    error_ms: float
    servers: tuple[str, ...]


class Sweep(BaseModel):
    """One sweep. `fleet` is redacted; `arguments` are the command's, as JSON values; `clocks` has the nodes whose NTP
    servers answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep_id: str
    fleet: dict[str, Any]
    policy: Policy
    seed: int
    arguments: dict[str, Any]
    versions: dict[str, str] = Field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
    started_at: datetime
    ended_at: datetime | None = None
    clocks: dict[str, ClockReading] = Field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The sweep of a directory. InputError where there is none, or one that this version cannot read."""
        path = directory / FILE_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise InputError(f"{directory}: holds no sweep ({FILE_NAME} is missing); give a sweep's --out") from None
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or 'unreadable').lower()}; make it readable") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(f"{path}: {where}: {first['msg']}; it is not a sweep of this version") from None

    def write(self, directory: Path) -> None:
        """Write `sweep.json`, whole or not at all."""
        path = directory / FILE_NAME
        temporary = path.with_name(f".{FILE_NAME}.tmp")
        temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
        sync(directory)

    def continued_by(self, other: Self, directory: Path) -> Self:
        """This sweep, taken up again with the plan of `other`. InputError naming the first difference of the plans."""
        difference = next(_differences("", self._plan(), other._plan()), None)
        if difference:
            raise InputError(f"{directory}: cannot resume: {difference}; use the same, or give another --out")
        return self.model_copy(
            update={"ended_at": None, "versions": self.versions | other.versions, "clocks": other.clocks}
        )

    def _plan(self) -> dict[str, Any]:
        plan = self.model_dump(mode="json", include={"schema_version", "fleet", "policy", "seed", "arguments"})
        plan["arguments"] = {key: value for key, value in plan["arguments"].items() if key not in _FREE_ARGUMENTS}
        return plan


def _differences(key: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(f"{key}.{name}".lstrip("."), old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, two) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{key}[{index}]", one, two)
    elif old != new:
        yield f"{key} was {_short(old)} and is now {_short(new)}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "not there" if value is None else str(value)[:60]


def check_directory(directory: Path, *, resume: bool) -> None:
    """InputError where a sweep could not be written to a directory. Changes nothing."""
    if (directory / FILE_NAME).exists() and not resume:
        raise InputError(f"{directory}: holds a sweep already; give --resume to go on, or another --out")
    parent = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{directory}: cannot be written: {parent} is no folder that you may write; give another --out"
        )
