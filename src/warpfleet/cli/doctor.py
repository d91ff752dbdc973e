"""`warpfleet doctor`: what this machine lacks, and the command that mends it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from warpfleet.lab import rootless
from warpfleet.lab.doctor import examine


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print machine output.")] = False,
) -> None:
    """Say what this machine lacks, and the command that mends it. Exit status 3 where something is missing."""
    if rootless.mode() is not rootless.Mode.NONE:
        rootless.ensure_privilege()
    checks = examine()
    if as_json:
        print(json.dumps({"mode": rootless.mode(), "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            remedy = "" if check.ok else f"  ->  {check.remedy}"
            print(f"{'ok     ' if check.ok else 'missing'}  {check.need}: {check.found}{remedy}")
    if not all(check.ok for check in checks):
        raise typer.Exit(3)
