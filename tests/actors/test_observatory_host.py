"""What an observatory knows, for how long, and what its file lives through."""

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from warpfleet.actors.observatory_host import ObservatoryHost
from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.experience import FRESH_S, KEPT_TRIES, Between, Evidence, Inbound, Subject, Track
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_range import PortRange
from warpfleet.telemetry.observatory_store import SCHEMA_VERSION, ObservatoryStore

NOW = 1_790_000_000.0
HOME = Exit("internet", 4, "198.51.100.1")
INBOUND = Inbound(HOME, "direct_connect")
BETWEEN = Between("internet", "udp_punch", 4, "EIM/APDF", "EIM/EIF")
NAT = NatBehaviour(
    mapping=Mapping.EIM,
    filtering=Filtering.APDF,
    port_assignment=PortAssignment.SEQUENTIAL,
    port_delta=2,
    port_range=PortRange(40_000, 40_900),
    hairpin=False,
    lifetime_s=30.5,
    translated=True,
    udp=None,
)


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def host(path: Path | None = None, clock: Clock | None = None) -> ObservatoryHost:
    return ObservatoryHost(path, clock or Clock())


def won(subject: Subject = INBOUND, connect_ms: float = 360.0, at: float = NOW) -> Evidence:
    return Evidence(subject, True, at, connect_ms, 80.0)


def lost(subject: Subject = INBOUND, at: float = NOW) -> Evidence:
    return Evidence(subject, False, at)


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "observatory.sqlite" if request.param == "file" else None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "observatory.sqlite"


@pytest.mark.parametrize("behaviour", [NAT, NatBehaviour(), replace(NAT, hairpin=True, translated=False, udp=False)])
async def test_it_recalls_what_it_remembered(path: Path | None, behaviour: NatBehaviour) -> None:
    one, known = host(path), KnownNat(HOME, behaviour, NOW - 5)
    await one.remember([known])
    assert await one.recall(HOME) == known
    assert await one.recall(replace(HOME, realm="lab")) is None
    assert await one.recall(replace(HOME, address="198.51.100.2")) is None


async def test_the_last_that_was_found_out_counts(path: Path | None) -> None:
    one, newer = host(path), KnownNat(HOME, replace(NAT, port_delta=4), NOW)
    await one.remember([KnownNat(HOME, NAT, NOW - 5)])
    await one.remember([newer])
    assert await one.recall(HOME) == newer


async def test_what_probes_saw_of_one_block_is_put_together(path: Path | None) -> None:
    one = host(path)
    for looked, known in [
        ((40_100, 41_023), (40_000, 41_023)),
        ((50_000, 50_900), (50_000, 50_900)),
        (None, None),
    ]:
        found = replace(NAT, port_range=PortRange(*looked) if looked else None)
        await one.remember([KnownNat(HOME, NAT, NOW), KnownNat(HOME, found, NOW)])
        recalled = await one.recall(HOME)
        assert recalled
        assert recalled.behaviour == replace(NAT, port_range=PortRange(*known) if known else None)


async def test_it_knows_the_tracks_of_both_kinds_of_subject(path: Path | None) -> None:
    one = host(path)
    await one.learn([won(), lost(), won(BETWEEN, 100.0), won(BETWEEN, 200.0)])
    unknown = replace(BETWEEN, realm="lab")
    assert await one.tracks([INBOUND, BETWEEN, unknown, INBOUND]) == {
        INBOUND: Track(tries=2, wins=1, last_at=NOW, connect_ms=360.0, rtt_ms=80.0),
        BETWEEN: Track(tries=2, wins=2, last_at=NOW, connect_ms=125.0, rtt_ms=80.0),
    }
    assert await one.tracks([]) == {}


async def test_what_is_older_than_a_day_is_not_known(path: Path | None) -> None:
    clock = Clock()
    one = host(path, clock)
    await one.remember([KnownNat(HOME, NAT, NOW)])
    await one.learn([lost(), won(at=NOW + 60)])
    clock.now = NOW + FRESH_S
    assert await one.recall(HOME) is not None
    assert (await one.tracks([INBOUND]))[INBOUND].tries == 2
    clock.now += 1
    assert await one.recall(HOME) is None
    assert await one.tracks([INBOUND]) == {
        INBOUND: Track(tries=1, wins=1, last_at=NOW + 60, connect_ms=360.0, rtt_ms=80.0)
    }


async def test_only_the_last_tries_count(path: Path | None) -> None:
    one = host(path)
    await one.learn([won(), won(BETWEEN)])
    await one.learn([lost() for _ in range(KEPT_TRIES)])
    tracks = await one.tracks([INBOUND, BETWEEN])
    assert (tracks[INBOUND].tries, tracks[INBOUND].wins) == (KEPT_TRIES, 0)
    assert tracks[BETWEEN].tries == 1


async def test_what_is_old_leaves_the_file(file: Path) -> None:
    clock = Clock()
    one = host(file, clock)
    await one.remember([KnownNat(HOME, NAT, NOW)])
    await one.learn([won()])
    clock.now += 2 * FRESH_S
    await one.remember([])
    await one.learn([])
    await one.close()
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT (SELECT count(*) FROM nats), (SELECT count(*) FROM tries)").fetchone() == (0, 0)


async def test_two_fleets_share_one_file(file: Path) -> None:
    one, two = host(file), host(file)
    await one.remember([KnownNat(HOME, NAT, NOW)])
    await two.learn([won()])
    await one.learn([won()])
    assert await two.recall(HOME) is not None
    assert (await one.tracks([INBOUND]))[INBOUND].wins == 2
    await one.close()
    await two.learn([won()])
    assert (await two.tracks([INBOUND]))[INBOUND].wins == 3


async def test_two_that_begin_at_once_have_one_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = host(file)
    monkeypatch.setattr(Path, "exists", lambda _path: False)  # as the second sees it, who looked a moment earlier
    two = host(file)
    await one.learn([won()])
    assert (await two.tracks([INBOUND]))[INBOUND].wins == 1
    assert set(modes(file.parent)) == {f"{file.name}{suffix}" for suffix in ("", "-wal", "-shm")}


async def test_it_serves_until_it_is_closed(file: Path) -> None:
    one = host(file)
    await one.learn([won()])
    await one.close()
    await one.serve()
    assert (await host(file).tracks([INBOUND]))[INBOUND].wins == 1


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_the_file_is_the_users_alone(file: Path) -> None:
    old_mask = os.umask(0)
    try:
        one = host(file)
        await one.learn([won()])
        private = {f"{file.name}{suffix}": 0o600 for suffix in ("", "-wal", "-shm")}
        assert modes(file.parent) == private
        os.chmod(file, 0o644)
        host(file)
        assert modes(file.parent) == private
    finally:
        os.umask(old_mask)


def test_forgotten_is_forgotten(path: Path | None) -> None:
    store = ObservatoryStore(path, Clock())
    store.put_nats([KnownNat(HOME, NAT, NOW)])
    store.put_evidence([won()])
    assert (len(store.nats()), len(store.all_tracks())) == (1, 1)
    store.forget()
    assert (store.nats(), store.all_tracks()) == ([], {})


# What may happen to the file


@contextmanager
def learner(file: Path, plugin: str) -> "Iterator[subprocess.Popen[str]]":
    """A process that learns, until the block ends."""
    command = [sys.executable, str(Path(__file__).with_name("killed_learner.py")), str(file), plugin]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_kill_loses_nothing_that_was_taken_while_two_processes_write(file: Path) -> None:
    taken: list[Subject] = []
    with learner(file, "one") as one, learner(file, "two") as two:
        for process, plugin in ((one, "one"), (two, "two")):
            assert process.stdout
            for _ in range(50):
                taken.append(Between("r", plugin, 4, process.stdout.readline().strip(), "peer"))
        for process, plugin in ((one, "one"), (two, "two")):
            process.kill()
            assert process.stdout
            taken += [Between("r", plugin, 4, line.strip(), "peer") for line in process.stdout]
    known = await ObservatoryHost(file).tracks(taken)
    assert known.keys() == set(taken)
    assert len(taken) >= 100


def damage(file: Path, content: bytes | None = None) -> bytes:
    """Spoil the file, all but its first page where there is no `content`; what is in it now."""
    if content is None:
        content = file.read_bytes()[:4096] + b"\xff" * 4096 * 5
    file.write_bytes(content)
    return content


async def assert_begun_anew(one: ObservatoryHost, file: Path, aside: bytes, caplog: pytest.LogCaptureFixture) -> None:
    await one.learn([won()])
    assert (await host(file).tracks([INBOUND]))[INBOUND].wins == 1, "it is a file again"
    kept = file.with_name(f"{file.name}.damaged-{int(NOW)}")
    assert kept.read_bytes() == aside
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert kept.name in warning.getMessage()


@pytest.mark.parametrize("content", [b"", b"no database at all " * 1000])
async def test_a_file_that_is_no_database_is_moved_aside(
    file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    damage(file, content)
    await assert_begun_anew(host(file), file, content, caplog)


async def test_a_file_that_is_damaged_while_it_is_open_is_moved_aside(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await host(file).close()
    damaged = damage(file)
    one = host(file)
    assert not caplog.records, "its first page is whole"
    await assert_begun_anew(one, file, damaged, caplog)


async def test_two_fleets_that_find_the_file_damaged_begin_one_anew(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await host(file).close()
    damage(file)
    one, two = host(file), host(file)
    await one.learn([won()])
    await two.learn([won()])
    assert (await one.tracks([INBOUND]))[INBOUND].wins == 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize("what", ["no folder", "a folder", "a newer version", "no table of ours"])
async def test_what_cannot_be_written_is_kept_in_memory(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "observatory.sqlite"
    if what == "no folder":
        file = tmp_path / "none" / "observatory.sqlite"
    elif what == "a folder":
        file.mkdir()
    else:
        version = 99 if what == "a newer version" else SCHEMA_VERSION
        with sqlite3.connect(file) as database:
            database.execute(f"PRAGMA user_version = {version}")
    one = host(file)
    await one.learn([won()])
    await one.learn([won()])
    assert (await one.tracks([INBOUND]))[INBOUND].wins == 2
    (warning,) = caplog.records
    assert "in memory" in warning.getMessage()
    assert not [name for name in os.listdir(tmp_path) if "damaged" in name]


async def test_a_file_that_others_keep_locked_is_an_error_and_stays_in_use(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpfleet.telemetry.observatory_store._BUSY_S", 0.01)
    one = host(file)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await one.learn([won()])
    other.execute("ROLLBACK")
    await one.learn([won()])
    assert (await host(file).tracks([INBOUND]))[INBOUND].wins == 1
    other.close()
