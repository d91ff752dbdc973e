"""Rows of several sweeps that come in one call: each finds its own, and one that cannot be written harms no other."""

from dataclasses import replace
from pathlib import Path

import pytest
import telemetry_rows as rows
from pyarrow import parquet

from warpfleet.actors.telemetry_host import TelemetryHost
from warpfleet.core.combo import AttemptOutcome
from warpfleet.core.errors import MissingError
from warpfleet.telemetry.records import StartedRow
from warpfleet.telemetry.writer import TelemetryWriter


def start(sweep_id: str) -> StartedRow:
    return replace(rows.started(f"connection of {sweep_id}"), sweep_id=sweep_id)


async def test_a_sweep_whose_rows_cannot_be_written_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = TelemetryHost()
    for name in ("full", "well"):
        await host.open_sweep(tmp_path / name, rows.sweep(sweep_id=name), resume=False)
    started = TelemetryWriter.started

    def start_or_fail(writer: TelemetryWriter, found: list[StartedRow]) -> None:
        if writer.sweep.sweep_id == "full":
            raise MissingError("no space left")
        started(writer, found)

    monkeypatch.setattr(TelemetryWriter, "started", start_or_fail)
    ended = rows.direct(start("well"))
    attempt = replace(rows.attempt(ended.connection_id, "1", "tcp_punch", AttemptOutcome.WON), sweep_id="")
    assert await host.write([ended, attempt, start("full"), start("well")]) == {"full": "no space left"}
    await host.close()
    assert parquet.read_table(tmp_path / "well" / "connections").num_rows == 1
    assert parquet.read_table(tmp_path / "well" / "attempts").num_rows == 1, "the responder's side finds its sweep, too"
