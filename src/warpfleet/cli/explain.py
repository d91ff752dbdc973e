"""`warpfleet explain`: why a connection went the way it went."""

import json
from pathlib import Path
from typing import Annotated

import typer

from warpfleet.cli.options import Json


def explain(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's telemetry.")],
    connection: Annotated[
        str, typer.Argument(help="A connection id, the beginning of one, or INITIATOR:RESPONDER[:REPEAT].")
    ],
    as_json: Json = False,
) -> None:
    """Tell why a connection went the way it went, attempt by attempt."""
    from warpfleet.telemetry import explain as telling  # noqa: PLC0415 - DuckDB and Arrow take their time
    from warpfleet.telemetry.writer import recover  # noqa: PLC0415

    recover(directory)
    if as_json:
        print(json.dumps(telling.explain_values(directory, connection), default=str))
    else:
        print(telling.explain(directory, connection))
