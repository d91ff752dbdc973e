"""Ray on this machine: its start and end, the actors of a fleet and their supervision, sweeps over it."""

import os
from pathlib import Path

_state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")

TOKEN_PATH = _state / "warpfleet" / "ray-token"

# Ray reads these when it is imported, so they stand here, before anything of this package imports it. Whoever sets the
# first two in the environment has told otherwise.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # every listener on loopback
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report over the internet
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN_PATH"] = str(TOKEN_PATH)
