"""Random probe: one side opens many mappings, the other guesses the port of one of them."""

from warpfleet.plugins.random_probe.run import RandomProbe

__all__ = ["RandomProbe"]
