"""The rivals' own virtual environments, with pinned versions, below `.venv-bench`."""

import shutil
import subprocess
import sys
from pathlib import Path

from warpfleet.core.errors import MissingError

HOME = Path(__file__).parent.parent / ".venv-bench"
_INSTALL_S = 300.0  # one of warpgate's dependencies is compiled
PINS = {
    "aioice": ("aioice==0.10.2", "aiomqtt==2.5.1"),
    "warpgate": ("warpgate==4.0.14", "aionetiface==0.0.24", "sidewire==0.1.9", "namebump==0.0.16"),
}


def python_of(rival: str) -> Path:
    """The interpreter of a rival's environment, which is made where it is not there. MissingError says why it cannot
    be."""
    folder = HOME / rival
    python, stamp, pins = folder / "bin/python", folder / "pins", "\n".join(PINS[rival])
    if stamp.exists() and stamp.read_text() == pins:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS[rival]])
    stamp.write_text(pins)
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise MissingError(f"'{' '.join(command)}' does not end") from None
    if done.returncode:
        raise MissingError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
