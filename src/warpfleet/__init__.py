"""Warpfleet connects any two hosts through whatever NATs lie between them, and measures how it did so."""

__version__ = "0.1.0"
