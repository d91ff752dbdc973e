"""How many file descriptors, sockets among them, this process may have open."""

import resource


def limit() -> int:
    """So many now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> None:
    """As many as its hard limit allows: the soft one is low for the sake of select(2), which asyncio does not use."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
