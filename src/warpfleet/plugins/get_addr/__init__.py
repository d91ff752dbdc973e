"""Refreshes a peer's address record over the signal channel."""

from warpfleet.plugins.get_addr.run import GetAddress

__all__ = ["GetAddress"]
