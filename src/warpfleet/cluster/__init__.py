"""The cluster of this machine: a daemon with Ray and a fleet's actors, the commands that talk to it, sweeps."""

import os

from warpfleet.configs.state import state_path

TOKEN_PATH = state_path() / "ray-token"

# Ray reads these when it is imported, so they stand here, before anything of this package imports it. Whoever sets the
# first two in the environment has told otherwise.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # every listener on loopback
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report over the internet
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN_PATH"] = str(TOKEN_PATH)
