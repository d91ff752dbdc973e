"""The sockets of the process that runs the tests, and ports that nothing listens on."""

import os
import socket


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def descriptors() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return {link for link in found if link.startswith("socket:")}
