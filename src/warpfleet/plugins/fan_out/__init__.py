"""Runs every address of a peer in parallel; the first wins."""

from warpfleet.plugins.fan_out.run import FanOut

__all__ = ["FanOut"]
