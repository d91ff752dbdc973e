"""What a sweep was and what it took, as pairs of a name and a value for people."""

from datetime import datetime, timedelta

from warpfleet.telemetry.findings import Cost
from warpfleet.telemetry.sweep import Sweep
from warpfleet.telemetry.units import NOTHING, count_text


def sweep_facts(sweep: Sweep) -> list[tuple[str, str]]:
    """What it was told to do, with which versions, and when."""
    arguments = sweep.arguments
    return [
        ("fleet", f"{sweep.fleet.get('name', NOTHING)}, {len(sweep.fleet.get('nodes', []))} nodes"),
        ("policy", sweep.policy),
        ("pairs", f"{arguments.get('pairs', NOTHING)}; repeats: {arguments.get('repeat', NOTHING)}"),
        ("tried", _tried(arguments.get("only"), arguments.get("af"))),
        ("seed", str(sweep.seed)),
        ("started", _moment(sweep.started_at)),
        ("ended", _end(sweep)),
        ("versions", ", ".join(f"{name} {version}" for name, version in sweep.versions.items())),
        ("sweep", sweep.sweep_id),
    ]


def cost_facts(cost: Cost, connections: int) -> list[tuple[str, str]]:
    """What its connections took, together and on average."""
    facts = [
        ("attempts started, on either side", _total(cost.attempts, connections)),
        ("packets sent", _total(cost.packets, connections)),
        ("of them by attempts", count_text(cost.attempt_packets)),
        ("of them to find out the NATs", count_text(cost.probe_packets)),
    ]
    if cost.superseded:
        facts.append(("interrupted and tried again, not counted", count_text(cost.superseded)))
    return facts


def _tried(only: str | None, af: int | None) -> str:
    return f"{f'{only} alone' if only else 'every plugin'}, {f'IPv{af} alone' if af else 'IPv4 and IPv6'}"


def _end(sweep: Sweep) -> str:
    if sweep.ended_at is None:
        return "not yet: it is under way, or was killed"
    lasted = timedelta(seconds=round((sweep.ended_at - sweep.started_at).total_seconds()))
    return f"{_moment(sweep.ended_at)}, after {lasted} (h:min:s)"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _total(count: int | None, connections: int) -> str:
    per_connection = f", {count / connections:.1f} a connection" if count is not None and connections else ""
    return count_text(count) + per_connection
