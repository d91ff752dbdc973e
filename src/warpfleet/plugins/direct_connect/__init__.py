"""Plain TCP connect to an address that the peer advertises."""

from warpfleet.plugins.direct_connect.run import DirectConnect

__all__ = ["DirectConnect"]
