"""A writer that says on stdout what it was acknowledged, until it is killed. Arguments: the directory, a run number."""

import sys
from pathlib import Path

import telemetry_rows as rows

from warpfleet.core.combo import AttemptOutcome
from warpfleet.telemetry.writer import TelemetryWriter

writer = TelemetryWriter(Path(sys.argv[1]), rows.sweep(), resume=True)
for number in range(1_000_000):
    one, two = rows.started(f"{sys.argv[2]}-{number}-a"), rows.started(f"{sys.argv[2]}-{number}-b")
    writer.started([one, two])
    print("started", one.connection_id, flush=True)
    print("started", two.connection_id, flush=True)
    writer.attempts([rows.attempt(one.connection_id, "1", "tcp_punch", AttemptOutcome.WON)])
    print("attempt", one.connection_id, flush=True)
    writer.connections([rows.direct(one)])
    print("ended", one.connection_id, flush=True)
    if number % 7 == 0:
        writer.flush()
