"""What a role takes from the machine that it runs on: the time of day, and chance."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Surroundings:
    """This machine's, unless given: a simulated host has a clock and a source of chance of its own.

    `now_s` are seconds since 1970 (UTC); `random_bytes` is a cryptographic source wherever peers are real.
    """

    now_s: Callable[[], float] = time.time
    random_bytes: Callable[[int], bytes] = secrets.token_bytes

    def new_id(self) -> str:
        """32 hexadecimal digits that nothing else has."""
        return self.random_bytes(16).hex()


MACHINE = Surroundings()
