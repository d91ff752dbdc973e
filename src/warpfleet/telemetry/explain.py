"""Tells in plain English how one connection went, attempt by attempt."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from warpfleet.core.combo import AttemptOutcome, ConnectionOutcome, Reason, Side
from warpfleet.core.nat import NatBehaviour
from warpfleet.telemetry.lookup import Story, find
from warpfleet.telemetry.reasons import FILTERINGS, MAPPINGS, PORTS, sentence
from warpfleet.telemetry.records import AttemptRow, ConnectionRow, NatObservationRow

_ENDS = {
    AttemptOutcome.WON: "WON",
    AttemptOutcome.LOST: "worked too, but was not chosen",
    AttemptOutcome.FAILED: "failed",
    AttemptOutcome.TIMEOUT: "ran out of time",
    AttemptOutcome.CANCELLED: "cancelled",
    AttemptOutcome.SKIPPED: "skipped",
}


def explain(directory: Path, connection: str) -> str:
    """The story of a connection as text. `connection` and errors are those of `lookup.find`."""
    return "\n".join(_lines(find(directory, connection))) + "\n"


def explain_values(directory: Path, connection: str) -> dict[str, Any]:
    """The same as JSON-ready values."""
    return story_values(find(directory, connection))


def story_values(story: Story) -> dict[str, Any]:
    """A story as JSON-ready values, a `why` sentence with each end."""
    return {
        "connection": asdict(story.connection)
        | {"started_at": story.connection.started_at.isoformat(), "why": _connection_why(story)},
        "attempts": [asdict(attempt) | {"why": attempt_why(attempt)} for attempt in story.attempts],
        "nats": {
            name: asdict(seen) | {"observed_at": seen.observed_at.isoformat(), "alias": _alias(seen)} if seen else None
            for name, seen in (
                (story.connection.initiator, story.initiator_nat),
                (story.connection.responder, story.responder_nat),
            )
        },
    }


def _lines(story: Story) -> Iterator[str]:
    row = story.connection
    yield f"{row.initiator} -> {row.responder}, repeat {row.repeat}, policy {row.policy}"
    yield f"connection {row.connection_id}, started {row.started_at:%Y-%m-%d %H:%M:%S} UTC"
    yield ""
    yield f"Result: {_result(row)}"
    yield ""
    yield "NATs"
    yield f"  {row.initiator} (initiator): {_nat(story.initiator_nat, row.initiator_nat)}"
    yield f"  {row.responder} (responder): {_nat(story.responder_nat, row.responder_nat)}"
    yield ""
    yield from time_line(story)
    yield from _skipped(story)
    yield from _advised(story)
    yield f"Why it ended so: {_connection_why(story)}"


def _result(row: ConnectionRow) -> str:
    if row.outcome not in (ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED):
        return f"{row.outcome}: {row.error or sentence(row.reason)}"
    path = "a direct pipe" if row.outcome is ConnectionOutcome.DIRECT else "a pipe through a relay"
    carrier = f"{row.transport.upper()} over IPv{row.af}" if row.transport else f"IPv{row.af}"
    parts = [f"{path} by {row.plugin} (phase {row.phase}, {carrier}, {_route(row.route_type)})"]
    parts.append(f"from {row.local_endpoint} to {row.remote_endpoint}")
    parts += [
        f"{text} {value:.0f} ms"
        for text, value in (
            ("authenticated after", row.connect_ms),
            ("first byte echoed after", row.first_byte_ms),
            ("round trip", row.rtt_ms),
            ("moved from the relay to the direct path after", row.upgraded_ms),
        )
        if value is not None
    ]
    return ", ".join(parts)


def _route(route: str | None) -> str:
    routes = {"nic": "interface address", "ext": "external address", "loopback": "same machine"}
    return routes.get(route or "", "address kind not recorded")


def _nat(seen: NatObservationRow | None, alias: str | None) -> str:
    if seen is None:
        return f"{alias or 'unknown'} (nothing was observed in this sweep)"
    parts = [
        f"mapping {seen.mapping} ({MAPPINGS[seen.mapping]})",
        f"filtering {seen.filtering} ({FILTERINGS[seen.filtering]})",
        f"ports {seen.port_assignment} ({PORTS[seen.port_assignment]}"
        + (f", in steps of {seen.port_delta}" if seen.port_delta else "")
        + (f", seen from {seen.port_first} to {seen.port_last})" if seen.port_first else ")"),
    ]
    if seen.hairpin is not None:
        parts.append("hairpins" if seen.hairpin else "does not hairpin")
    where = f", seen as {seen.external_ip}" if seen.external_ip else ""
    return f"{alias or _alias(seen)}{where}: {'; '.join(parts)} [{seen.source}, confidence {seen.confidence:.0%}]"


def _alias(seen: NatObservationRow) -> str:
    return NatBehaviour(mapping=seen.mapping, filtering=seen.filtering, port_assignment=seen.port_assignment).alias


def time_line(story: Story) -> Iterator[str]:
    """A line for each attempt that ran, in the order of their start."""
    ran = [attempt for attempt in story.attempts if attempt.outcome is not AttemptOutcome.SKIPPED]
    if not ran:
        yield "Nothing was tried, or nothing of it was recorded."
        yield ""
        return
    yield "Time line (ms from the start)"
    for attempt in ran:
        times = f"{_ms(attempt.started_ms)} .. {_ms(attempt.ended_ms)}"
        yield f"  {times}  {_what(attempt, story)}: {attempt_why(attempt)}"
    yield ""


def _ms(value: float | None) -> str:
    return f"{value:8.1f}" if value is not None else "       ?"


def _what(attempt: AttemptRow, story: Story) -> str:
    node = story.connection.initiator if attempt.side is Side.INITIATOR else story.connection.responder
    carrier = f"{attempt.transport.upper()}, " if attempt.transport else ""
    return f"{attempt.plugin} ({carrier}IPv{attempt.af}, {_route(attempt.route_type)}) on {node}, the {attempt.side}"


def attempt_why(attempt: AttemptRow) -> str:
    """How an attempt ended and what it cost, in plain English."""
    end = _ENDS[attempt.outcome]
    if attempt.outcome is not AttemptOutcome.WON:
        end += f": {sentence(attempt.reason)}"
    spent = [
        f"{unit}: {count}" for count, unit in ((attempt.sockets, "sockets"), (attempt.packets_sent, "packets")) if count
    ]
    return f"{end} [{', '.join(spent)}]" if spent else end


def _skipped(story: Story) -> Iterator[str]:
    """One line for what was skipped on both sides for the same reason."""
    lines = {
        f"  {attempt.plugin} (IPv{attempt.af}, {_route(attempt.route_type)}): {sentence(attempt.reason)}"
        for attempt in story.attempts
        if attempt.outcome is AttemptOutcome.SKIPPED
    }
    if lines:
        yield "Not tried"
        yield from sorted(lines)
        yield ""


def _advised(story: Story) -> Iterator[str]:
    """What was left out or moved because of what nodes had learnt before."""
    lines = [
        f"  {attempt.plugin} (IPv{attempt.af}, {_route(attempt.route_type)}), "
        f"{'left out: ' if attempt.reason is Reason.EXPERIENCE_RULES_OUT else ''}{attempt.advice}"
        for attempt in story.attempts
        if attempt.advice
    ]
    if lines:
        yield "What the observatory advised"
        yield from sorted(lines)
        yield ""


def _connection_why(story: Story) -> str:
    row = story.connection
    if row.outcome not in (ConnectionOutcome.DIRECT, ConnectionOutcome.RELAYED):
        return sentence(row.reason)
    ends = [attempt for attempt in story.attempts if attempt.side is Side.INITIATOR]
    also = sorted({attempt.plugin for attempt in ends if attempt.outcome is AttemptOutcome.LOST} - {row.plugin})
    first = f"{row.plugin} gave the first pipe on which both ends had proved who they are"
    if row.upgraded_ms is not None:
        first = f"{row.plugin} gave a direct pipe, and what ran over the relay was moved to it"
    why = first + (f"; {', '.join(also)} worked as well and was closed" if also else "")
    if row.outcome is ConnectionOutcome.RELAYED:
        tried = sorted({attempt.plugin for attempt in ends if attempt.started_ms is not None} - {row.plugin})
        why += f"; no direct path was there in time ({', '.join(tried) or 'nothing else'} tried)"
    return why
