"""Ray on this machine: its start and end, the actors of a fleet and their supervision, sweeps over it."""
