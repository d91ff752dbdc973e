"""`warpfleet observatory`: what fleets have learnt about NATs."""

import json
import time
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from warpfleet.cli.options import Json, console
from warpfleet.configs.state import observatory_path
from warpfleet.core.exit import KnownNat
from warpfleet.core.experience import Inbound, RoundTrip, Subject, Track
from warpfleet.telemetry.observatory_store import ObservatoryStore


def observatory(
    as_json: Json = False,
    forget: Annotated[bool, typer.Option("--forget", help="Forget everything.")] = False,
) -> None:
    """List what fleets have learnt in the last 24 hours: the NATs at each exit, and how well techniques did."""
    with closing(ObservatoryStore(observatory_path())) as store:
        if forget:
            store.forget()
        nats, tracks = store.nats(), store.all_tracks()
    now = time.time()
    if as_json:
        exits = [_exit_values(nat, now) for nat in nats]
        print(json.dumps({"exits": exits, "tracks": [_track_values(s, t, now) for s, t in tracks.items()]}))
    elif nats or tracks:
        console().print(Group(_exit_table(nats, now), "", _track_table(tracks, now)))
    else:
        console().print("Nothing is known.")


def _exit_values(nat: KnownNat, now: float) -> dict[str, Any]:
    facts = asdict(nat.behaviour) | {"alias": nat.behaviour.alias}
    return asdict(nat.exit) | facts | {"observed_at": nat.observed_at, "age_s": now - nat.observed_at}


def _track_values(subject: Subject, track: Track, now: float) -> dict[str, Any]:
    about = asdict(subject.exit) | {"plugin": subject.plugin} if isinstance(subject, Inbound) else asdict(subject)
    return about | asdict(track) | {"age_s": now - track.last_at}


def _exit_table(nats: list[KnownNat], now: float) -> Table:
    table = Table("realm", "exit", "alias", "mapping", "filtering", "ports", "age", box=None)
    for nat in nats:
        b = nat.behaviour
        facts = b.alias, b.mapping, b.filtering, b.port_assignment
        table.add_row(nat.exit.realm, nat.exit.address, *facts, _age(now - nat.observed_at))
    return table


def _track_table(tracks: dict[Subject, Track], now: float) -> Table:
    table = Table("realm", "plugin", "towards or between", "won", "connect", "rtt", "age", box=None)
    for subject, track in tracks.items():
        if isinstance(subject, Inbound):
            realm, where = subject.exit.realm, subject.exit.address
        elif isinstance(subject, RoundTrip):
            realm, where = subject.realm, f"{subject.one} and {subject.other}"
        else:
            realm, where = subject.realm, f"{subject.initiator} and\n{subject.responder}"
        times = _ms(track.connect_ms), _ms(track.rtt_ms), _age(now - track.last_at)
        table.add_row(realm, subject.plugin, where, f"{track.wins} of {track.tries}", *times)
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _age(seconds: float) -> str:
    minutes = max(int(seconds), 0) // 60
    return f"{minutes // 60} h {minutes % 60:02} min"
