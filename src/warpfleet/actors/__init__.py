"""The roles, a plain class each, and the one file that turns them into Ray actors."""
