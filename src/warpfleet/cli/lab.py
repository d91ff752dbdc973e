"""`warpfleet lab`: laboratories of network namespaces."""

import json
from typing import Annotated

import typer

from warpfleet.cli.options import Json, sayer
from warpfleet.configs.topology import find_topology
from warpfleet.core.errors import InputError
from warpfleet.lab import laboratory, rootless

app = typer.Typer(help="NAT laboratories of network namespaces.", no_args_is_help=True)


_progress = sayer("lab")


@app.command()
def up(
    topology: Annotated[str, typer.Argument(help="A topology file, or the name of one that ships.")] = "default",
    name: Annotated[str | None, typer.Option(help="Another name than the topology's.")] = None,
    as_json: Json = False,
) -> None:
    """Build a laboratory, wait until its servers answer, and print the path of its fleet file."""
    chosen = find_topology(topology)
    rootless.ensure_privilege()
    lab = laboratory.up(chosen, name=name, progress=_progress)
    print(json.dumps({"name": lab.name, "fleet": str(lab.fleet_path)}) if as_json else lab.fleet_path)


@app.command()
def down(
    name: Annotated[str | None, typer.Argument(help="The laboratory; may be left out where only one is up.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every laboratory, half-made ones too.")] = False,
) -> None:
    """Take a laboratory down. Nothing of it is left, whatever had been killed before."""
    rootless.ensure_privilege()
    present = laboratory.names()
    if name is None and not everything and len(present) != 1:
        raise InputError(f"which laboratory? give its name or --all (up: {', '.join(present) or 'none'})")
    for each in present if everything else [name or present[0]]:
        laboratory.down(each)
        _progress(f"{each} is down")


@app.command("list")
def list_labs(as_json: Json = False) -> None:
    """List the laboratories that are up, with their fleet files; one that was left half-made has none."""
    rootless.ensure_privilege()
    labs = laboratory.listed()
    if as_json:
        print(json.dumps({name: str(path) if path else None for name, path in labs.items()}))
        return
    for name, path in labs.items():
        print(name, path or f"half-made; run: warpfleet lab down {name}")
