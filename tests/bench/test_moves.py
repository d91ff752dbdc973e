"""A pipe that moves on the kernel's network while bytes cross it."""

from pathlib import Path

import pytest

from bench import moves
from warpfleet.lab import rootless

pytestmark = pytest.mark.lab
MIB = 2**20


@pytest.mark.skipif(rootless.mode() is not rootless.Mode.ROOT, reason="needs root, or `unshare -Urnm`")
async def test_a_stream_goes_on_where_the_direct_path_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    crossed = await moves.cross(16 * MIB, 1, name="wftest-moves")
    assert crossed.paths == (True, False, True)
    assert crossed.identical
    assert crossed.sent_bytes >= 16 * MIB


def test_what_is_not_the_same_is_not_called_so() -> None:
    crossed = moves.Crossed(
        sent_bytes=2 * MIB,
        sent_sha256="one",
        received_bytes=2 * MIB,
        received_sha256="other",
        paths=(True, False),
        took_s=1.0,
    )
    assert str(crossed) == "2097152 bytes over relay - direct in 1 s (2.1 MB/s): NOT the same: 2097152 bytes arrived"
