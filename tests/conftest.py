"""Puts this folder on the path of the tests, which share its helpers."""

from hypothesis import settings

# The machine may be busy: how long an example takes proves nothing. Without that, the profile is the one in force.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")
