"""TCP punch: both sides connect to each other's endpoints at one instant, and again until that leads to a pipe."""

import asyncio

from warpfleet.core.combo import Phase, RouteType, Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.pairing import Requirement
from warpfleet.core.targets import Allowance
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.attempt_messages import TIME_US_BOUND
from warpfleet.plugins.contract import Strategy
from warpfleet.plugins.registry import register
from warpfleet.plugins.tcp_punch.meeting import Meeting
from warpfleet.plugins.tcp_punch.messages import Answer, Offer, Told
from warpfleet.plugins.tcp_punch.plan import (
    FIRST_MEETING,
    WINDOW_US,
    WINDOWS_OPEN,
    clock_ahead_us,
    is_near,
    keeps_ports,
    local_ports,
    next_window,
    preparation_us,
    window_step,
)
from warpfleet.plugins.tcp_punch.race import Race


@register(phase=Phase.PUNCH)
class TcpPunch(Strategy):
    """One side of a TCP punch."""

    name = "tcp_punch"
    transport = Transport.TCP
    requirement = Requirement.TCP_PUNCHABLE
    routes = (RouteType.EXT,)
    allowance = Allowance(packets_per_s=64, packets_burst=256)
    proto_messages = (Offer, Answer)

    def __init__(self, context: AttemptContext) -> None:
        super().__init__(context)
        self._race = Race()
        self._meetings: dict[int, Meeting] = {}
        self._fixed_ip: str | None = None  # the peer's external address, where no NAT changes its ports
        self._took_us = 0  # of the peer's last word, by both clocks
        self._least_us = TIME_US_BOUND, TIME_US_BOUND  # that a word took in the first meeting: the peer's, and ours
        self._ahead_us = 0  # by how much the initiator sets its clock, where the first exchange shows that one is wrong

    async def run(self) -> Won:
        self._race.add(self._meet())
        try:
            return await self._race.first()
        finally:
            for meeting in self._meetings.values():
                meeting.close()

    async def _meet(self) -> None:
        """Hold the first meeting, then one in each window, and those to which the peer comes earlier."""
        context = self.context
        if context.theirs and keeps_ports(context.theirs.behaviour(context.combo.af)):
            self._fixed_ip = context.theirs.external.get(context.combo.af)
        await self._meeting(FIRST_MEETING)
        if isinstance(context.opening, Offer):
            await self._hear(context.opening)
        window = next_window(self._now_us())
        while True:
            told = await self._told_before(window * WINDOW_US - preparation_us(self._took_us))
            if told:
                before_us = self._ahead_us
                await self._hear(told)
                window = window if self._ahead_us == before_us else next_window(self._now_us())
                continue
            await self._prepare(window)
            window += 1

    def _now_us(self) -> int:
        return self.context.node.now_us() + self._ahead_us

    async def _told_before(self, at_us: int) -> Told | None:
        context = self.context
        kind = Answer if context.side is Side.INITIATOR else Offer
        try:
            async with asyncio.timeout((at_us - self._now_us()) / 1_000_000):
                return await context.inbox.message(kind)
        except TimeoutError:
            return None

    async def _hear(self, told: Told) -> None:
        if told.meeting == FIRST_MEETING or is_near(told.meeting, self._now_us()):
            meeting = await self._meeting(told.meeting)
            self._took_us = meeting.hear(told)
            if told.meeting == FIRST_MEETING and isinstance(told, Answer):
                self._least_us = min(self._least_us[0], self._took_us), min(self._least_us[1], told.took_us)
                self._ahead_us = clock_ahead_us(*self._least_us)
                self._took_us += self._ahead_us
            port = self._peer_port(told.meeting)
            for endpoint in map(Endpoint.parse, told.candidates):
                self._fixed_ip = endpoint.ip if endpoint.port == port else self._fixed_ip

    async def _prepare(self, window: int) -> None:
        """Hold the meeting of a window, where the peer may come to although its word of that is late or lost."""
        if former := self._meetings.pop(window - WINDOWS_OPEN, None):
            former.close()
        meeting = await self._meeting(window)
        if self._fixed_ip:
            step = window_step(self.context.side, window, self.context.started_at_us)
            meeting.dial(Endpoint(self._fixed_ip, self._peer_port(window)), step)

    async def _meeting(self, number: int) -> Meeting:
        if number not in self._meetings:
            self._meetings[number] = await Meeting.open(
                self.context, self._race, number, 0 if number == FIRST_MEETING else self._ahead_us
            )
        return self._meetings[number]

    def _peer_port(self, number: int) -> int:
        peer_side = Side.RESPONDER if self.context.side is Side.INITIATOR else Side.INITIATOR
        return local_ports(self.context.attempt_id, peer_side, number)[0]
