"""What a connection between two open hosts costs, against the physics of its path.

Brings up the two hosts of `two-open.yaml`, connects them 20 times one after the other, and prints `connect_ms` as a
ratio to the path's round trip as the kernel measures it (TCP_INFO of the same path, in the same run). Three round trips
are the least that is done: the TCP handshake, the proof of identity, and the agreement on the pipe.
"""

import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

from warpfleet.configs.topology import find_topology
from warpfleet.lab import netns, rootless
from warpfleet.lab.laboratory import Lab, laboratory

REPEATS = 20
MINIMUM_ROUND_TRIPS = 3


def path_rtt_ms(lab: Lab) -> float:
    """The path's round trip: the median time of a TCP handshake from one host to the other."""
    times_ms = []
    with netns.inside(lab.netns("bob")):
        listener = socket.create_server(("0.0.0.0", 0))
        addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    for _ in range(REPEATS):
        with netns.inside(lab.netns("alice")):
            client = socket.socket()
        with client:
            client.connect((addresses[0], listener.getsockname()[1]))
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            times_ms.append(int.from_bytes(info[68:72], sys.byteorder) / 1000)  # tcpi_rtt, in microseconds
    listener.close()
    return statistics.median(times_ms)


def main() -> None:
    rootless.ensure_privilege()
    topology = find_topology(str(Path(__file__).with_name("two-open.yaml")))
    with laboratory(topology, name="bench-two-open") as lab, tempfile.TemporaryDirectory() as out:
        rtt_ms = path_rtt_ms(lab)
        sweep = [str(Path(sys.executable).with_name("warpfleet")), "sweep", str(lab.fleet_path), "--out", f"{out}/s"]
        options = ["--pairs", "alice:bob", "--repeat", str(REPEATS), "--concurrency", "1"]
        subprocess.run([*sweep, *options], check=True, stdout=subprocess.DEVNULL)
        query = "select median(connect_ms), min(connect_ms), max(connect_ms) from read_parquet(?)"
        median_ms, least_ms, most_ms = duckdb.execute(query, [f"{out}/s/connections/*.parquet"]).fetchall()[0]
    print(f"path round trip {rtt_ms:.1f} ms; connect_ms median {median_ms:.1f}, {least_ms:.1f} to {most_ms:.1f}")
    print(f"median: {median_ms / rtt_ms:.2f} round trips, of which {MINIMUM_ROUND_TRIPS} are physics;", end=" ")
    print(f"{median_ms - MINIMUM_ROUND_TRIPS * rtt_ms:.1f} ms beyond them")


if __name__ == "__main__":
    main()
