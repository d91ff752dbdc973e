"""The `warpfleet` command: its subcommands, and what an error becomes."""

import logging
import sys
from typing import cast

import typer

from warpfleet.cli import cluster, lab
from warpfleet.cli.connect import connect
from warpfleet.cli.doctor import doctor
from warpfleet.cli.explain import explain
from warpfleet.cli.forward import forward
from warpfleet.cli.nat import nat
from warpfleet.cli.observatory import observatory
from warpfleet.cli.pipe import pipe
from warpfleet.cli.plugins import plugins
from warpfleet.cli.report import report
from warpfleet.cli.sweep import lab_sweep, sweep
from warpfleet.core.errors import InputError, WarpfleetError

# What is wrong with the arguments; typer exports no name for it.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.mro()[1])
EXIT_INPUT_WRONG = 2
EXIT_MISSING = 3

app = typer.Typer(
    help="Connects any two hosts through whatever NATs lie between them, and measures how it did so.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (sweep, connect, pipe, forward, nat, explain, report, observatory, plugins, doctor):
    app.command()(command)
lab.app.command("sweep")(lab_sweep)
app.add_typer(lab.app, name="lab")
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Run the command; every error that we know of is one line on stderr, and whatever is wrong with the arguments."""
    logging.basicConfig(level=logging.WARNING, format="warpfleet: %(message)s", stream=sys.stderr)
    try:
        sys.exit(app(standalone_mode=False))
    except _UsageError as error:
        name = error.ctx.command_path if error.ctx else "warpfleet"
        message = error.format_message().rstrip(".")
        if message:  # else it has shown the help
            print(f"{name}: {message}; see `{name} --help`", file=sys.stderr)
        sys.exit(EXIT_INPUT_WRONG)
    except WarpfleetError as error:
        print(f"warpfleet: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT_WRONG if isinstance(error, InputError) else EXIT_MISSING)
