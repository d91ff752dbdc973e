"""The simulated laboratory: the same plugins and roles on virtual time, behind the same NATs, from one seed."""
