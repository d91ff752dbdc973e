"""A node hears each transmission once by every link to a broker. The copies must cost nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from warpfleet.core.identity import Identity
from warpfleet.signal import mailbox
from warpfleet.signal.mailbox import House, Mailbox, Received
from warpfleet.signal.messages import MessageTypes, ProtoMessage

LINKS = 4
ALICE, BOB = (Identity.generate(name, bytes([n]) * 32) for n, name in enumerate(("alice", "bob")))


class Note(ProtoMessage):
    kind: ClassVar[str] = "copies.note"


@dataclass
class Broker:
    """Delivers what is published by any link once for every link of whoever subscribes."""

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
            asyncio.get_running_loop().call_soon(self.broker.hearers[topic], "link", topic, payload)

    def publish_everywhere(self, topic: str, payload: bytes) -> None:
        for _ in range(LINKS):
            self.publish(topic, payload)

    async def close(self) -> None: ...


async def test_a_message_over_four_links_is_opened_once_and_acknowledged_once(monkeypatch: Any) -> None:
    opened: list[bytes] = []
    real = mailbox.open_envelope
    monkeypatch.setattr(mailbox, "open_envelope", lambda data, *rest: opened.append(data) or real(data, *rest))
    received: list[Received] = []

    async def handler(message: Received) -> None:
        received.append(message)

    broker = Broker()
    house = House(MessageTypes([Note]), handler, lambda: 1_000.0)
    house.roster.trust([ALICE.public, BOB.public])
    boxes = [Mailbox(who, house, lambda hear, _up: broker.channel(hear)) for who in (ALICE, BOB)]  # type: ignore[arg-type,return-value]
    await boxes[0].send("bob", "connection", Note(), 5.0)
    assert len(received) == 1
    assert broker.published == 2, "the message and one acknowledgement"
    assert len(opened) == 2, "each opened once"
    for box in boxes:
        await box.close()
