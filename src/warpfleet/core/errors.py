"""The errors that a user meets: each is one line, and its type decides the command's exit status."""


class WarpfleetError(Exception):
    """Base of every error that warpfleet raises on purpose."""


class InputError(WarpfleetError):
    """The input is wrong (exit status 2). The message names the file, the key and the remedy."""


class MissingError(WarpfleetError):
    """A service, namespace, program or privilege that is needed is not there (exit status 3)."""
