"""The sockets and tasks of one NAT probe, which leave nothing behind."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from warpfleet.net.interfaces import ConnectionLost, CountableNetwork, Counted, DatagramSocket
from warpfleet.net.stun import Transactions

T = TypeVar("T")


class Station:
    """One socket of the probe, its STUN transactions, and the task that reads for them."""

    def __init__(self, socket: DatagramSocket) -> None:
        self.socket = socket
        self.transactions = Transactions(socket.send_to)
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            try:
                self.transactions.feed(*await self.socket.receive())
            except ConnectionLost:
                return


class Bench:
    """The probe's sockets and tasks: all are closed, cancelled and awaited in the end. `counted` is all that sent."""

    def __init__(self, network: CountableNetwork, af: int) -> None:
        self.counted: list[Counted] = []
        self._network = network
        self._af = af
        self._stations: list[Station] = []
        self._tasks: list[asyncio.Task[Any]] = []

    async def station(self) -> Station:
        """Another socket, which is being read."""
        station = Station(await self._network.open_udp(self._af))
        self._stations.append(station)
        self.counted.append(station.socket)
        return station

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends with the probe."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *(station.reader for station in self._stations)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for station in self._stations:
            station.socket.close()
