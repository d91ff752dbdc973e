"""A small run: bare sockets and one program a host, one pair, once."""

from pathlib import Path

import pytest

from bench.cells import BARE_TCP, BARE_UDP, NODE
from bench.comparison import TOPOLOGY, Comparison
from warpfleet.configs.topology import find_topology
from warpfleet.lab import rootless
from warpfleet.lab.laboratory import laboratory

pytestmark = pytest.mark.lab


@pytest.mark.skipif(rootless.mode() is not rootless.Mode.ROOT, reason="needs root, or `unshare -Urnm`")
async def test_bare_sockets_and_warpfleet_at_one_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with laboratory(find_topology(str(TOPOLOGY)), name="wftest-bench") as lab:
        found = Comparison(lab, [("full_cone", "public")], [NODE], tmp_path)
        await found.run(1)
    by_contender = {one.contender: one for one in found.tries}
    assert set(by_contender) == {BARE_TCP, BARE_UDP, NODE}
    for one in found.tries:
        assert one.ended.first_byte_ms, one.ended.error
        assert one.packets >= 2
        assert one.sockets >= 1
    assert by_contender[NODE].cpu_ms > 0, "a bare socket may take no more than its process does at rest"
    least_ms = by_contender[BARE_UDP].ended.first_byte_ms
    assert least_ms
    assert all(one.ended.first_byte_ms >= least_ms for one in found.tries if one.ended.first_byte_ms)
    assert [(pipe.transport, pipe.contender) for pipe in found.pipes] == [
        ("tcp", BARE_TCP),
        ("tcp", NODE),
        ("udp", BARE_UDP),
        ("udp", NODE),
    ]
    assert all(pipe.throughput_mb_s and pipe.round_trip_ms for pipe in found.pipes), found.pipes
    assert {one.contender for one in found.upkeep} == {NODE}
    assert all(one.memory_mib > 1 and all(one.crowd_cpu_ms) for one in found.upkeep), found.upkeep
