"""Warpfleet and its rivals side by side in one laboratory: `make bench`."""
