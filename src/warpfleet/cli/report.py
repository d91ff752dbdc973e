"""`warpfleet report`: what a sweep found, for the terminal, as a page, as figures or as JSON."""

import json
from errno import EISDIR
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

import typer

from warpfleet.cli.options import Json, console, sayer
from warpfleet.core.errors import InputError

_PAGE_MODE = 0o644  # a page is for others to read


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's telemetry.")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the plots as SVG files.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what a sweep found: who reached whom and how, how soon, what failed and why, and what it took."""
    # DuckDB, Arrow and matplotlib take their time to import: other commands do without.
    from warpfleet.telemetry import text  # noqa: PLC0415
    from warpfleet.telemetry.findings import findings, findings_values  # noqa: PLC0415
    from warpfleet.telemetry.writer import recover  # noqa: PLC0415

    recover(directory)
    found = findings(directory)
    say = sayer("report")
    if html:
        from warpfleet.telemetry.page import page  # noqa: PLC0415

        _write(html, page(found), "--html")
        say(str(html))
    if figures:
        from warpfleet.telemetry.figures import draw  # noqa: PLC0415

        for name, svg in draw(found).items():
            _write(figures / f"{name}.svg", svg, "--figures")
            say(f"{figures / name}.svg")
    if as_json:
        print(json.dumps(findings_values(found), default=str))
    elif not html and not figures:
        console().print(text.report(found))


def _write(path: Path, content: str, option: str) -> None:
    """Write a file, whole or not at all, in a folder that is made where it is missing. InputError."""
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name that nobody could have guessed: somebody's link in its place would lead the content elsewhere.
        with NamedTemporaryFile(
            "w", dir=path.parent, prefix=".", suffix=".tmp", encoding="utf-8", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(content)
                file.flush()
                temporary.chmod(_PAGE_MODE)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written: {reason}; give another {option}") from None
