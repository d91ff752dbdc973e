"""One meeting of a TCP punch: one local port of ours, and the streams between it and the peer's ports."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from warpfleet.core.combo import Reason, Side
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.handshake import FRAME_BYTES, ProofFailed
from warpfleet.net.interfaces import ByteStream, ConnectionLost, ConnectRefused, Listener, Unreachable
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.tcp_punch.messages import Answer, Offer, Told
from warpfleet.plugins.tcp_punch.plan import (
    CANDIDATES_MAX,
    FIRST_MEETING,
    Step,
    initiators_step,
    keeps_ports,
    local_ports,
    predicted,
    responders_step,
    window_step,
)
from warpfleet.plugins.tcp_punch.race import Race, Racer

_STUN_S = 3.0  # a server that has not answered the second SYN by then will not be of use
# What the peer expects at first, and what its STUN server saw; more would make us a port scanner.
_TARGETS_MAX = 2 * CANDIDATES_MAX
# The peer's first frame follows the last segment of the three-way handshake: three round trips of a slow path.
_FIRST_FRAME_S = 3.0
# Of the streams that come from the peer's address so many may be unproved: others live behind it, too.
_UNPROVED_MAX = 8


class Meeting:
    """A meeting by its number: `listener` is shared, and `race` takes the ways to a pipe that open up. Its clock is the
    node's, and so much ahead."""

    def __init__(self, context: AttemptContext, race: Race, number: int, listener: Listener, ahead_us: int) -> None:
        self._context = context
        self._race = race
        self._number = number
        self._listener = listener
        self._ahead_us = ahead_us
        self._targets: set[Endpoint] = set()
        self._racers: set[Racer] = set()
        self._unproved: dict[Racer, ByteStream] = {}
        self._took_us = 0  # of the peer's last word, by both clocks; windows do not ask
        self._told_at_us: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, context: AttemptContext, race: Race, number: int, ahead_us: int) -> "Meeting":
        """Listen, on the first of the meeting's ports that is free, and begin to tell the peer."""
        for port in (*local_ports(context.attempt_id, context.side, number), 0):
            anywhere = Endpoint("::" if context.combo.af == 6 else "0.0.0.0", port)  # noqa: S104 - at the vantage
            try:
                listener = await context.network.listen_tcp(anywhere, shared=True)
                break
            except OSError:
                if port == 0:
                    raise
        meeting = cls(context, race, number, listener, ahead_us)
        meeting._add(meeting._tell())
        return meeting

    def hear(self, told: Told) -> int:
        """Dial the endpoints that the peer has told, when it dials ours; how long its word took, by both clocks, in
        microseconds."""
        heard_at_us = self._now_us()
        self._took_us = heard_at_us - told.sent_at_us
        self._add(self._dial_all(told, heard_at_us, self._took_us))
        return self._took_us

    async def _dial_all(self, told: Told, heard_at_us: int, took_us: int) -> None:
        step = window_step(self._context.side, self._number, self._context.started_at_us)
        if self._number == FIRST_MEETING:
            told_at_us = await self._told_at_us
            if isinstance(told, Answer):
                step = initiators_step(told_at_us, heard_at_us, took_us, told.took_us)
            else:
                step = responders_step(told_at_us, heard_at_us, took_us, corrects=bool(self._targets))
        for text in told.candidates:
            self.dial(Endpoint.parse(text), step)

    def dial(self, target: Endpoint, step: Step) -> None:
        """Connect to an endpoint of the peer; once for each, and to so many at most."""
        if target in self._targets or len(self._targets) >= _TARGETS_MAX:
            return
        if not self._targets:  # until one is known, no stream is the peer's, and the kernel keeps them
            self._add(self._accept())
        self._targets.add(target)
        self._add(self._dial(target, step))

    def close(self) -> None:
        """End what it has in the race; close the listener, and the streams whose proof did not begin."""
        for racer in self._racers:
            racer.cancel()
        self._listener.close()
        for stream in self._unproved.values():
            stream.close()

    def _add(self, way: Coroutine[Any, Any, Won | None]) -> Racer:
        racer = self._race.add(way)
        self._racers.add(racer)
        racer.add_done_callback(self._racers.discard)
        return racer

    def _now_us(self) -> int:
        return self._context.node.now_us() + self._ahead_us

    async def _tell(self) -> None:
        """Tell the peer where our port may be: at once what we expect, and later what a STUN server saw."""
        context, port, af = self._context, self._listener.local.port, self._context.combo.af
        nat = context.mine.behaviour(af)
        external_ip = context.mine.external.get(af)
        expected = [Endpoint(external_ip, port)] if external_ip and keeps_ports(nat) else []
        self._send(expected)  # perhaps none: then the peer asks its STUN server meanwhile
        if expected and nat.translated is False:
            return
        try:
            reflexive = await context.network.external_tcp_endpoint(af, port, timeout_s=_STUN_S)
        except TimeoutError as error:
            if expected or self._number != FIRST_MEETING:
                return
            raise AttemptFailed(Reason.STUN_FAILED, "no STUN server answered over TCP") from error
        if [reflexive] != expected:
            self._send(predicted(reflexive, nat))

    def _send(self, candidates: list[Endpoint]) -> None:
        context = self._context
        now_us = self._now_us()
        told = {"meeting": self._number, "candidates": [str(each) for each in candidates], "sent_at_us": now_us}
        if context.side is Side.INITIATOR:
            context.send(Offer, **told)
        else:
            context.send(Answer, **told, took_us=self._took_us)
        if candidates and not self._told_at_us.done():
            self._told_at_us.set_result(now_us)

    async def _dial(self, target: Endpoint, step: Step) -> Won | None:
        context, port = self._context, self._listener.local.port
        await asyncio.sleep(max(step.at_us - self._now_us(), 0) / 1_000_000)
        with contextlib.suppress(ConnectRefused, ConnectionLost, Unreachable, ProofFailed, OSError):
            stream = await context.network.connect_tcp(
                target, timeout_s=context.timeout_s, local_port=port, hop_limit=step.hop_limit
            )
            return await context.prove_stream(stream)
        return None

    async def _accept(self) -> None:
        while True:
            stream = await self._listener.accept()
            of_peer = any(stream.remote.ip == target.ip for target in self._targets)
            if of_peer and len(self._unproved) < _UNPROVED_MAX:
                racer = self._add(self._admit(stream))
                self._unproved[racer] = stream
                racer.add_done_callback(self._settled)
            else:
                stream.close()

    def _settled(self, racer: Racer) -> None:
        if not racer.cancelled():  # else it may never have begun, and its stream is ours to close
            del self._unproved[racer]

    async def _admit(self, stream: ByteStream) -> Won | None:
        try:
            async with asyncio.timeout(_FIRST_FRAME_S):
                frame = await stream.read_exactly(FRAME_BYTES)
            return await self._context.prove_stream(stream, frame)
        except (TimeoutError, ConnectionLost, ProofFailed):
            stream.close()
            return None
