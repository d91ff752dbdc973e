"""Answers a peer that asks for our address record."""

from warpfleet.plugins.return_addr.run import ReturnAddress

__all__ = ["ReturnAddress"]
