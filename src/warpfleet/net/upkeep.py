"""The two paths of a pipe that has moved from a relay to a direct one: kept, checked, and chosen between."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable

from warpfleet.core.consent import Consent, State
from warpfleet.net.handshake import NONCE_BYTES
from warpfleet.net.quic import DatagramPath, QuicPipe

_CHALLENGES = 4  # of the last checks, whose answers may still be under way


class Upkeep:
    """Moves a relayed pipe to a direct path, back to the relay where that dies, and to it again once it is good again;
    each end for itself. Ends with the pipe, or with the direct path. `chance` is from 0 to 1. ConnectionLost where the
    pipe is closed already."""

    def __init__(self, pipe: QuicPipe, direct: DatagramPath, chance: Callable[[], float]) -> None:
        self._pipe = pipe
        self._relayed = pipe.active
        self._direct = direct
        self._loop = asyncio.get_running_loop()
        self._consent = Consent(self._loop.time(), chance)
        self._challenges: deque[bytes] = deque(maxlen=_CHALLENGES)
        self._timer: asyncio.TimerHandle | None = None
        pipe.move(direct)
        pipe.watch(self)
        self._arm()

    def sent(self, path: DatagramPath) -> None:
        """The pipe has sent something that is usually answered."""
        if path is self._direct:
            self._consent.sent(self._loop.time())
            if self._timer and self._consent.due_s() < self._timer.when():
                self._arm()

    def heard(self, path: DatagramPath) -> None:
        """Something has come for the pipe."""
        if path is self._direct:
            self._consent.heard()

    def checked(self, path: DatagramPath, challenge: bytes) -> None:
        """The peer has answered a challenge by this path."""
        if path is self._direct and challenge in self._challenges:
            self._consent.answered(self._loop.time())
            self._follow()

    def gone(self, path: DatagramPath) -> None:
        """A path's socket has ended."""
        if path is self._direct:
            self.stop()

    def stop(self) -> None:
        """The pipe is over."""
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _tick(self) -> None:
        if self._consent.advance(self._loop.time()):
            challenge = secrets.token_bytes(NONCE_BYTES)
            self._challenges.append(challenge)
            self._pipe.check(self._direct, challenge)
            # NATs and permissions on the way through the relay are kept open, too: nobody waits for this answer.
            self._pipe.check(self._relayed, secrets.token_bytes(NONCE_BYTES))
        self._follow()
        if self._consent.state is State.EXPIRED:
            self._pipe.drop(self._direct)
            self.stop()
        else:
            self._arm()

    def _follow(self) -> None:
        chosen = self._direct if self._consent.state is State.GOOD else self._relayed
        if self._pipe.active is not chosen and chosen in self._pipe.paths:
            self._pipe.move(chosen)

    def _arm(self) -> None:
        self.stop()
        self._timer = self._loop.call_at(self._consent.due_s(), self._tick)
