"""A relayed path through a TURN server (RFC 8656)."""

from warpfleet.plugins.turn.run import Turn

__all__ = ["Turn"]
