"""`warpfleet plugins`: what is registered, where from, for which phase."""

import json

from rich.markup import escape
from rich.table import Table

from warpfleet.cli.options import Json, console


def plugins(as_json: Json = False) -> None:
    """List the plugins: name, phase, where from; and those that could not be loaded, with the reason."""
    from warpfleet.plugins.loader import load_plugins  # noqa: PLC0415 - every plugin is imported for it

    rows = [
        {
            "name": found.registration.name if found.registration else None,
            "phase": found.registration.phase if found.registration else None,
            "transport": found.registration.strategy.transport if found.registration else None,
            "source": found.source,
            "problem": found.problem or None,
        }
        for found in load_plugins()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "phase", "transport", "source", "problem", box=None)
    for row in sorted(rows, key=lambda row: (row["phase"] or "~", row["name"] or "~")):
        table.add_row(*(escape(str(value or "-")) for value in row.values()))
    console().print(table)
