"""Keeps the machine's own network apart from the laboratories' addresses.

A default gateway may accept a connection to any address at all, so a program that forgot its namespace would seem to
reach the laboratory. While one is up, the ranges it emulates are unreachable from the namespace that it was made from.
"""

import json
from ipaddress import ip_network

from warpfleet.lab import netns
from warpfleet.lab.plan import MAPPING_LINES
from warpfleet.lab.servers import SERVERS_V4

# Of the documentation range the servers' addresses alone: some networks give its others to services of their own.
EMULATED = (*(f"{server}/32" for server in SERVERS_V4), str(MAPPING_LINES), "198.18.0.0/15", "2001:db8::/32")
_PROTOCOL = "219"  # the routing protocol number that marks our routes, so that no other is ever removed


def shut() -> None:
    """Make the emulated ranges unreachable from here, except those that this machine really has routes into."""
    routed = [
        ip_network(route["dst"], strict=False)
        for af in ("-4", "-6")
        for route in json.loads(netns.run(["ip", "-j", af, "route", "show"]) or "[]")
        if route["dst"] != "default"
    ]
    ours = [ip_network(text) for text in EMULATED]
    free = [net for net in ours if not any(net.version == other.version and net.overlaps(other) for other in routed)]
    netns.batch(f"route add unreachable {net} proto {_PROTOCOL}" for net in free)


def open_again() -> None:
    """Remove what `shut` added, and nothing else."""
    for af in ("-4", "-6"):
        netns.run(["ip", af, "route", "flush", "proto", _PROTOCOL])
