"""The signal channel of a simulated laboratory: messages between nodes by way of a broker that loses some of them."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from warpfleet.actors.values import IncomingSignal, OutgoingSignal
from warpfleet.core.retry import RoundTrip
from warpfleet.plugins.attempt_messages import Abandon, AttemptMessage
from warpfleet.plugins.loader import message_owners
from warpfleet.signal.delivery import Delivery


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Where one node's signals arrive: `delay_s` is the one-way time between its host and the internet, `deliver` takes
    messages for each plugin."""

    delay_s: float
    deliver: Mapping[str, Callable[[list[IncomingSignal]], Awaitable[None]]]


class Signalling:
    """Carries signals over a broker whose line has a delay. Each transmission, and each acknowledgement, is lost by
    chance (`loss`).

    What is not acknowledged is sent again, by the numbers of the real channel.
    """

    def __init__(self, *, loss: float, broker_delay_s: float, rng: random.Random) -> None:
        self._loss = loss
        self._broker_delay_s = broker_delay_s
        self._rng = rng
        self._mailboxes: dict[str, Mailbox] = {}
        self._owners = message_owners()
        self._sending: set[asyncio.Future[None]] = set()

    def open(self, node: str, mailbox: Mailbox) -> None:
        """Carry a node's signals from now on."""
        self._mailboxes[node] = mailbox

    async def post(self, signals: Sequence[OutgoingSignal]) -> None:
        """Send messages; one that is not acknowledged in time comes back as a failure of its attempt."""
        for signal in signals:
            task = asyncio.create_task(self._send(signal))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, signal: OutgoingSignal) -> None:
        loop = asyncio.get_running_loop()
        hosts_s = self._mailboxes[signal.node].delay_s + self._mailboxes[signal.peer].delay_s
        one_way_s = hosts_s + 2 * self._broker_delay_s
        delivery = Delivery(RoundTrip(), self._rng.random)
        arrived = False
        acknowledged = asyncio.Event()

        def arrive() -> None:
            nonlocal arrived
            if not arrived:
                arrived = True
                self._deliver(signal.peer, signal.node, signal, signal.message)
            if not self._lost():
                loop.call_later(one_way_s, acknowledged.set)

        try:
            async with asyncio.timeout(signal.deadline_s):
                while not acknowledged.is_set():
                    delivery.transmit(loop.time())
                    if not self._lost():
                        loop.call_later(one_way_s, arrive)
                    await _set_by(acknowledged, delivery.due_at)
        except TimeoutError:
            self._deliver(signal.node, signal.peer, signal, None)

    def _deliver(self, node: str, sender: str, signal: OutgoingSignal, message: AttemptMessage | None) -> None:
        """Hand a node a message, or the failure of its own, in the plugin that it is for."""
        plugin = signal.plugin
        if message is not None:
            plugin = message.plugin if isinstance(message, Abandon) else self._owners[message.kind]
        incoming = IncomingSignal(node, sender, signal.connection_id, plugin, signal.message.attempt_id, message)
        task = asyncio.ensure_future(self._mailboxes[node].deliver[plugin]([incoming]))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _lost(self) -> bool:
        return self._rng.random() < self._loss


async def _set_by(event: asyncio.Event, at_s: float) -> None:
    """Return once the event is set, at `at_s` at the latest."""
    try:
        async with asyncio.timeout_at(at_s):
            await event.wait()
    except TimeoutError:
        return
