"""Warpfleet and its rivals side by side: one laboratory, one run, ratios. `make bench` runs it.

Of each pair of hosts, repeat after repeat, every contender makes one connection, one after another: a bare TCP connect
and a bare UDP exchange with a host that anybody can reach, by a path of the same delay; warpfleet's fleet with each
policy, in a cluster; `Node.open` in a program of its own; aioice and warpgate 4.0.14, each a program a host, in
environments of their own. Run it on an idle machine.
"""

import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bench import loopback, moves, table
from bench.cells import CONTENDERS, PAIRS
from bench.comparison import CROWD, NEAR, TARGET, TOPOLOGY, Comparison
from warpfleet.cli.options import console, sayer
from warpfleet.configs.topology import find_topology
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.pairs import choose_pairs
from warpfleet.lab import rootless
from warpfleet.lab.laboratory import laboratory

_LABORATORY = "warpfleet-bench"


def main(
    pairs: Annotated[
        str, typer.Option(help="all, A:B,C:D or random:N ordered pairs; left out: one of each kind.")
    ] = "",
    repeat: Annotated[int, typer.Option(min=1, help="How often each contender connects each pair.")] = 3,
    only: Annotated[str, typer.Option(help=f"Some of {', '.join(CONTENDERS[2:])}, with commas between.")] = "",
) -> None:
    """Warpfleet and its rivals side by side in one laboratory."""
    chosen = only.split(",") if only else list(CONTENDERS)
    for name in chosen:
        if name not in CONTENDERS:
            raise typer.BadParameter(f"no contender {name!r}: some of {', '.join(CONTENDERS[2:])}", param_hint="--only")
    rootless.ensure_privilege()
    topology = find_topology(str(TOPOLOGY))
    names = [host.name for host in topology.hosts if host.name not in (*NEAR, TARGET)]
    some = choose_pairs(names, pairs, random.Random(0)) if pairs else list(PAIRS)
    with (
        tempfile.TemporaryDirectory() as folder,
        laboratory(topology, name=_LABORATORY, progress=sayer("bench"), take_over=True) as lab,
    ):
        os.environ["XDG_STATE_HOME"] = folder  # what the user's own fleets have learned is not theirs to use
        found = Comparison(lab, some, chosen, Path(folder))
        asyncio.run(found.run(repeat))
    table.show(found.tries, found.pipes, found.upkeep, console(), crowd=CROWD, crowded=found.crowded)
    loopback.main()
    moves.main()


if __name__ == "__main__":
    try:
        typer.run(main)
    except WarpfleetError as error:
        sys.exit(f"bench: {error}")
