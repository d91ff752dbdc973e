"""Asks the peer to dial us: we are reachable, it is not."""

from warpfleet.plugins.reverse_connect.run import ReverseConnect

__all__ = ["ReverseConnect"]
