"""What a mailbox makes of its links: copies cost nothing, and a slow network is no busy one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest

from virtual_time import now_s, virtual_time
from warpfleet.core.identity import Identity
from warpfleet.signal import mailbox
from warpfleet.signal.mailbox import House, Mailbox, Received
from warpfleet.signal.messages import MessageTypes, ProtoMessage

LINKS = 4
ALICE, BOB, CAROL = (Identity.generate(name, bytes([n]) * 32) for n, name in enumerate(("alice", "bob", "carol")))


class Note(ProtoMessage):
    kind: ClassVar[str] = "copies.note"

    text: str = ""


@dataclass
class Broker:
    """Delivers what is published by any link once for every link of whoever subscribes, after so many seconds."""

    one_way_s: float = 0.0
    hearers: dict[str, Callable[[Any, str, bytes], None]] = field(default_factory=dict)
    published: int = 0

    def channel(self, on_message: Callable[[Any, str, bytes], None]) -> "Channel":
        return Channel(self, on_message)


@dataclass
class Channel:
    """The part of `MqttChannel` that a mailbox uses, over such a broker."""

    broker: Broker
    on_message: Callable[[Any, str, bytes], None]

    def subscribe(self, topics: list[str]) -> None:
        self.broker.hearers.update(dict.fromkeys(topics, self.on_message))

    def start(self) -> None: ...

    async def wait_up(self) -> None: ...

    def publish(self, topic: str, payload: bytes, _preferred: object = None) -> None:
        self.broker.published += 1
        for _ in range(LINKS):
            asyncio.get_running_loop().call_later(
                self.broker.one_way_s, self.broker.hearers[topic], "link", topic, payload
            )

    def publish_everywhere(self, topic: str, payload: bytes) -> None:
        for _ in range(LINKS):
            self.publish(topic, payload)

    async def close(self) -> None: ...


def mailboxes(broker: Broker, received: list[Received], whose: Sequence[Identity] = (ALICE, BOB)) -> list[Mailbox]:
    """Theirs, in one house."""

    async def handler(message: Received) -> None:
        received.append(message)

    house = House(MessageTypes([Note]), handler, lambda: 1_000.0)
    house.roster.trust([who.public for who in whose])
    return [Mailbox(who, house, lambda hear, _up: broker.channel(hear)) for who in whose]  # type: ignore[arg-type,return-value]


async def test_a_message_over_four_links_is_opened_once_and_acknowledged_once(monkeypatch: Any) -> None:
    opened: list[bytes] = []
    real = mailbox.open_envelope
    monkeypatch.setattr(mailbox, "open_envelope", lambda data, *rest: opened.append(data) or real(data, *rest))
    received: list[Received] = []
    broker = Broker()
    boxes = mailboxes(broker, received)
    await boxes[0].send("bob", "connection", Note(), 5.0)
    assert len(received) == 1
    assert broker.published == 2, "the message and one acknowledgement"
    assert len(opened) == 2, "each opened once"
    for box in boxes:
        await box.close()


@virtual_time
async def test_signals_that_take_long_do_not_hold_up_others() -> None:
    received: list[Received] = []
    boxes = mailboxes(Broker(one_way_s=0.6), received)
    await boxes[0].send("bob", "connection", Note(), 5.0)  # shows how long a round trip is
    began_s = now_s()
    round_trips_s = await asyncio.gather(*(boxes[0].send("bob", "connection", Note(), 30.0) for _ in range(256)))
    assert len(received) == 257
    assert max(round_trips_s) < 1.3
    assert now_s() - began_s < 1.2 + 256 / 320 + 0.1
    for box in boxes:
        await box.close()


@virtual_time
async def test_nothing_is_sent_twice_where_a_round_trip_is_a_long_one() -> None:
    broker = Broker(one_way_s=0.6)
    boxes = mailboxes(broker, [])
    await boxes[0].send("bob", "connection", Note(), 5.0)
    await asyncio.sleep(2)  # what it sent again, not knowing that, is answered
    before = broker.published
    for _ in range(10):
        await boxes[0].send("bob", "connection", Note(), 5.0)
    assert broker.published - before == 2 * 10
    for box in boxes:
        await box.close()


@virtual_time
async def test_a_peer_that_floods_makes_nobody_else_forgotten(monkeypatch: Any) -> None:
    monkeypatch.setattr(mailbox, "ReplayGuard", partial(mailbox.ReplayGuard, capacity=2))
    broker = Broker()
    received: list[Received] = []
    boxes = mailboxes(broker, received, (ALICE, BOB, CAROL))
    flood = [asyncio.create_task(boxes[0].send("carol", "connection", Note(), 200.0)) for _ in range(8)]
    await asyncio.sleep(1)
    await boxes[1].send("carol", "connection", Note(), 5.0)
    assert received[-1].sender == "bob"
    for task in flood:
        task.cancel()
    for box in boxes:
        await box.close()


@virtual_time
async def test_what_no_envelope_holds_is_refused_when_it_is_sent() -> None:
    boxes = mailboxes(Broker(), [])
    with pytest.raises(ValueError, match="longer than 255 bytes"):
        await boxes[0].send("bob", "\u00e9" * 128, Note(), 5.0)
    with pytest.raises(ValueError, match="exceeds"):
        await boxes[0].send("bob", "connection", Note(text="\u00e9" * 33_000), 5.0)
    for box in boxes:
        await box.close()
