"""One node's way to its peers: a link to every broker of the fleet at once.

Several brokers serve as failover without a switch to throw: the node listens on all of them and publishes its record on
all of them, so two nodes meet wherever they share one live broker. A message goes by one link, a repeated one by all.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from warpfleet.core.errors import MissingError
from warpfleet.signal.broker_url import BrokerUrl
from warpfleet.signal.link import ConnectSocket, MqttLink, Wish


class MqttChannel:
    """The links of one node. `on_message` gets (link, topic, payload); `on_up` is called when a link comes up."""

    def __init__(
        self,
        urls: Sequence[BrokerUrl],
        connect_socket: ConnectSocket,
        executor: Executor,
        on_message: Callable[[MqttLink, str, bytes], None],
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._wish = Wish()
        self._on_up = on_up
        self._up = asyncio.Event()
        self._links = [
            MqttLink(
                url,
                self._wish,
                connect_socket=connect_socket,
                executor=executor,
                on_message=on_message,
                on_change=self._link_changed,
            )
            for url in urls
        ]

    def start(self) -> None:
        """Begin to connect, in the background."""
        for link in self._links:
            link.start()

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once a broker is connected, subscribed to and has our record. MissingError at the deadline."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wait_up()
        except TimeoutError as error:
            causes = "; ".join(f"{link.url}: {link.last_error}" for link in self._links)
            raise MissingError(f"no MQTT broker answered within {timeout_s:g} s ({causes})") from error

    async def wait_up(self) -> None:
        """Return once at least one link is up; the deadline is the caller's."""
        await self._up.wait()

    def subscribe(self, topics: Sequence[str]) -> None:
        """Hear these topics from now on, on every broker and after every reconnection."""
        new = set(topics) - self._wish.topics
        if new:
            self._wish.topics |= new
            self._tell_links()

    def retain(self, topic: str, payload: bytes) -> None:
        """Have every broker retain `payload` on `topic`, again after every reconnection."""
        self._wish.retained[topic] = payload
        self._tell_links()

    def publish(self, topic: str, payload: bytes, preferred: MqttLink | None = None) -> None:
        """Send by one link: the preferred one if it is up, or else the first that is. None up: the message is lost."""
        links = sorted(self._links, key=lambda link: link is not preferred)
        for link in links:
            if link.publish(topic, payload):
                return

    def publish_everywhere(self, topic: str, payload: bytes) -> None:
        """Send by every link that is up."""
        for link in self._links:
            link.publish(topic, payload)

    async def close(self) -> None:
        """Close every link."""
        await asyncio.gather(*(link.close() for link in self._links))

    def _tell_links(self) -> None:
        for link in self._links:
            link.wish_changed()

    def _link_changed(self) -> None:
        if any(link.up for link in self._links):
            self._up.set()
            self._on_up()
        else:
            self._up.clear()
