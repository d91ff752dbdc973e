"""The folder in which a user's warpfleet keeps what outlives a command."""

import os
from pathlib import Path

from warpfleet.core.errors import MissingError


def state_dir() -> Path:
    """`$XDG_STATE_HOME/warpfleet`, which others may not enter; made where it is not there. MissingError."""
    path = state_path()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MissingError(f"{path}: cannot be made: {reason}; set XDG_STATE_HOME to a folder of yours") from None
    return path


def observatory_path() -> Path:
    """The file in which fleets keep what they learn about NATs. MissingError."""
    return state_dir() / "observatory.sqlite"


def state_path() -> Path:
    """Where that folder is, or would be."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "warpfleet"
