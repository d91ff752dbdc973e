"""Ray on this machine, for one process."""

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from warpfleet.cluster import TOKEN_PATH
from warpfleet.configs.state import state_dir
from warpfleet.core.errors import MissingError

# Telemetry, signals and batches are kilobytes: the smallest store that Ray accepts without complaint.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_TOKEN_CHARS = 64  # 256 bits


@contextmanager
def ray_host(folder: Path) -> Iterator[None]:
    """Ray runs in a private folder, and this process is connected to it, until the block ends.

    MissingError where Ray does not start.
    """
    _make_token()
    try:
        try:
            ray.init(
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace="warpfleet",
                _temp_dir=str(folder / "ray"),
                _node_ip_address="127.0.0.1",
            )
        except Exception as error:
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise MissingError(f"Ray did not start: {why[-1]}; run `warpfleet doctor`") from error
        yield
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def _make_token() -> None:
    """The user's token, in a file that only the user may read: the one that Ray would make has the usual umask.

    MissingError where it cannot be written.
    """
    try:
        if TOKEN_PATH.exists() and TOKEN_PATH.stat().st_size >= _TOKEN_CHARS:
            TOKEN_PATH.chmod(0o600)
            return
        with tempfile.NamedTemporaryFile("w", dir=state_dir(), delete=False) as file:
            file.write(secrets.token_hex(_TOKEN_CHARS // 2))
        Path(file.name).replace(TOKEN_PATH)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MissingError(
            f"{TOKEN_PATH}: cannot be written: {reason}; set XDG_STATE_HOME to a folder of yours"
        ) from None
