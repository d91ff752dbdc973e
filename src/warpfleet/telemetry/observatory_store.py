"""The file in which nodes keep what they have learnt: the NATs at each exit, and the tries of each technique."""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from warpfleet.core.exit import Exit, KnownNat
from warpfleet.core.experience import FRESH_S, KEPT_TRIES, Between, Evidence, Inbound, RoundTrip, Subject, Track, track
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_range import PortRange, merged

SCHEMA_VERSION = 2
_BUSY_S = 2.0  # another process writes for milliseconds

_SCHEMA = f"""
CREATE TABLE nats (
    realm TEXT, af INTEGER, address TEXT,
    mapping TEXT, filtering TEXT, port_assignment TEXT, port_delta INTEGER, port_first INTEGER, port_last INTEGER,
    hairpin INTEGER, lifetime_s REAL, translated INTEGER, udp INTEGER,
    observed_at REAL,
    PRIMARY KEY (realm, af, address)
);
CREATE TABLE tries (
    kind TEXT, realm TEXT, af INTEGER, plugin TEXT, one TEXT, other TEXT,
    worked INTEGER, at REAL, connect_ms REAL, rtt_ms REAL
);
CREATE INDEX tries_by_subject ON tries (kind, realm, af, plugin, one, other);
CREATE INDEX tries_by_age ON tries (at);
PRAGMA user_version = {SCHEMA_VERSION};
"""
_PUT_NAT = "INSERT OR REPLACE INTO nats VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NAT = "SELECT * FROM nats WHERE realm = ? AND af = ? AND address = ? AND observed_at >= ?"
_NATS = "SELECT * FROM nats WHERE observed_at >= ? ORDER BY realm, af, address"
_OLD_NATS = "DELETE FROM nats WHERE observed_at < ?"

_SUBJECT = "kind = ? AND realm = ? AND af = ? AND plugin = ? AND one = ? AND other = ?"
_PUT_TRY = "INSERT INTO tries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TRIES = f"SELECT * FROM tries WHERE {_SUBJECT} AND at >= ? ORDER BY rowid"  # noqa: S608
_ALL_TRIES = """
SELECT * FROM tries WHERE at >= ? ORDER BY kind, realm, af, plugin, one, other, rowid
"""
_OLD_TRIES = "DELETE FROM tries WHERE at < ?"
_SURPLUS = f"""
DELETE FROM tries WHERE rowid IN
    (SELECT rowid FROM tries WHERE {_SUBJECT} ORDER BY rowid DESC LIMIT -1 OFFSET {KEPT_TRIES})
"""  # noqa: S608

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _Outdated(Exception):
    """An older version wrote the file, or nobody did."""


class _Key(NamedTuple):
    """A subject as columns: what kind it is, and what it is about (`other` is '' where that is one exit)."""

    kind: str
    realm: str
    af: int
    plugin: str
    one: str
    other: str

    @classmethod
    def of(cls, subject: Subject) -> "_Key":
        if isinstance(subject, Inbound):
            return cls("inbound", subject.exit.realm, subject.exit.af, subject.plugin, subject.exit.address, "")
        if isinstance(subject, RoundTrip):
            return cls("round_trip", subject.realm, subject.af, subject.plugin, subject.one, subject.other)
        return cls("between", subject.realm, subject.af, subject.plugin, subject.initiator, subject.responder)

    @property
    def subject(self) -> Subject:
        if self.kind == "inbound":
            return Inbound(Exit(self.realm, self.af, self.one), self.plugin)
        kind = RoundTrip if self.kind == "round_trip" else Between
        return kind(self.realm, self.plugin, self.af, self.one, self.other)


class ObservatoryStore:
    """What is known, in an SQLite file that several processes may have open, or in memory (None). `clock` gives seconds
    since 1970; what is older than a day is as good as gone.

    A write that has returned survives a kill of the process. A damaged file is moved aside, and where the file cannot
    be written, what is learnt is kept in memory: either is worth a warning, and no error. sqlite3.OperationalError
    where other processes keep the file locked.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._inode = 0
        self._database = self._open()

    def nat(self, exit_: Exit) -> KnownNat | None:
        """What is known of the NATs at an exit."""
        return self._run(lambda db: _nat(db, exit_, self._oldest()))

    def nats(self) -> list[KnownNat]:
        """All exits that something is known of."""
        return [_known_nat(row) for row in self._run(lambda db: db.execute(_NATS, [self._oldest()]).fetchall())]

    def put_nats(self, nats: Iterable[KnownNat]) -> None:
        """Keep what was found out about exits, in place of what was known of them: only a block of ports is pieced
        together from what one probe after another has seen of it."""
        found = list(nats)

        def write(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.execute(_OLD_NATS, [self._oldest()])
                for nat in found:
                    database.execute(_PUT_NAT, _nat_row(nat, _nat(database, nat.exit, self._oldest())))

        self._run(write)

    def tracks(self, subjects: Iterable[Subject]) -> dict[Subject, Track]:
        """The tracks of those subjects that have one."""
        keys = {_Key.of(subject) for subject in subjects}
        oldest = self._oldest()
        tries = self._run(lambda db: [row for key in keys for row in db.execute(_TRIES, [*key, oldest])])
        return _tracks(tries)

    def all_tracks(self) -> dict[Subject, Track]:
        """Every track."""
        return _tracks(self._run(lambda db: db.execute(_ALL_TRIES, [self._oldest()]).fetchall()))

    def put_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Keep tries, the last ones of each subject."""
        rows = [(*_Key.of(e.subject), e.worked, e.at, e.connect_ms, e.rtt_ms) for e in evidence]
        keys = {_Key.of(e.subject) for e in evidence}

        def write(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.execute(_OLD_TRIES, [self._oldest()])
                database.executemany(_PUT_TRY, rows)
                database.executemany(_SURPLUS, keys)

        self._run(write)

    def forget(self) -> None:
        """Forget everything."""

        def write(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.execute("DELETE FROM nats")
                database.execute("DELETE FROM tries")

        self._run(write)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _oldest(self) -> float:
        return self._clock() - FRESH_S

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it, if need be again on what is there in place of a damaged or unwritable file."""
        try:
            return work(self._database)
        except sqlite3.DatabaseError as error:
            if _code(error) in (None, *_BUSY):
                raise
            self._database.close()
            self._database = self._instead(error)
            return work(self._database)

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return _in_memory()
        try:
            return self._open_file(self._path)
        except (sqlite3.DatabaseError, OSError, _Outdated) as error:
            return self._instead(error)

    def _open_file(self, path: Path) -> sqlite3.Connection:
        if not path.exists():
            _create(path)
        path.chmod(0o600)
        self._inode = path.stat().st_ino
        database = _connect(path)
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version < SCHEMA_VERSION:
                raise _Outdated
            if version > SCHEMA_VERSION:
                raise OSError("a newer version wrote it")
        except BaseException:
            database.close()
            raise
        return database

    def _instead(self, error: Exception) -> sqlite3.Connection:
        """What to go on with after an error of the file."""
        path, self._path = self._path, None
        if path and (isinstance(error, _Outdated) or _code(error) in _DAMAGED):
            with suppress(sqlite3.DatabaseError, OSError, _Outdated):
                self._set_aside(path)
                database, self._path = self._open_file(path), path
                return database
        _log.warning("%s cannot be used (%s): what is learnt is kept in memory", path, error)
        return _in_memory()

    def _set_aside(self, path: Path) -> None:
        """Move the damaged file away, unless another process has already."""
        if path.stat().st_ino != self._inode:
            return
        aside = path.with_name(f"{path.name}.damaged-{int(self._clock())}")
        for suffix in ("-shm", "-wal", ""):
            with suppress(FileNotFoundError):
                os.replace(f"{path}{suffix}", f"{aside}{suffix}")
        _log.warning("%s is damaged or outdated: it was moved to %s, and a new one was begun", path, aside.name)


def _code(error: Exception) -> int | None:
    """SQLite's primary result code. None where the error is not of the file but of its use."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the other bytes say more precisely what it was


def _create(path: Path) -> None:
    """Make the file, whole or not at all: whoever opens it meanwhile finds none or a complete one."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(_connect(temporary)) as database:
            database.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for one another
            database.executescript(_SCHEMA)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _connect(path: Path | str) -> sqlite3.Connection:
    # One thread uses it at a time, but an actor's methods do not run in the thread that made the actor.
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA synchronous = NORMAL")  # with WAL, only a loss of power can cost the last writes
    return database


def _in_memory() -> sqlite3.Connection:
    database = _connect(":memory:")
    database.executescript(_SCHEMA)
    return database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Write all of it or nothing. It is a writer from the start: one that became it halfway could meet another."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        yield


def _tracks(tries: Iterable[tuple[Any, ...]]) -> dict[Subject, Track]:
    width = len(_Key._fields)
    found: dict[Subject, Track] = {}
    for columns, rows in groupby(tries, key=lambda row: row[:width]):
        subject = _Key(*columns).subject
        found[subject] = track(Evidence(subject, bool(row[width]), *row[width + 1 :]) for row in rows)
    return found


def _nat(database: sqlite3.Connection, exit_: Exit, oldest: float) -> KnownNat | None:
    row = database.execute(_NAT, [exit_.realm, exit_.af, exit_.address, oldest]).fetchone()
    return _known_nat(row) if row else None


def _nat_row(nat: KnownNat, known: KnownNat | None) -> tuple[object, ...]:
    exit_, b = nat.exit, nat.behaviour
    first, last = merged(known.behaviour.port_range if known else None, b.port_range) or (None, None)
    ports = b.port_assignment, b.port_delta, first, last
    facts = b.mapping, b.filtering, *ports, b.hairpin, b.lifetime_s, b.translated, b.udp
    return exit_.realm, exit_.af, exit_.address, *facts, nat.observed_at


def _known_nat(row: tuple[Any, ...]) -> KnownNat:
    realm, af, address, mapping, filtering, ports, port_delta, first, last, *facts, observed_at = row
    hairpin, lifetime_s, translated, udp = facts
    behaviour = NatBehaviour(
        mapping=Mapping(mapping),
        filtering=Filtering(filtering),
        port_assignment=PortAssignment(ports),
        port_delta=port_delta,
        port_range=None if first is None else PortRange(first, last),
        hairpin=_flag(hairpin),
        lifetime_s=lifetime_s,
        translated=_flag(translated),
        udp=_flag(udp),
    )
    return KnownNat(Exit(realm, af, address), behaviour, observed_at)


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)
