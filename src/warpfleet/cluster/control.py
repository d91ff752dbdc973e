"""How a command talks to the cluster's daemon: over a Unix socket that only the user can reach, pickled values."""

import asyncio
import contextlib
import logging
import pickle
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from warpfleet.cluster.sweep_plan import SweepPlan
from warpfleet.configs.fleet import Fleet
from warpfleet.core.combo import Policy, Reason
from warpfleet.core.errors import MissingError, WarpfleetError
from warpfleet.core.pairs import Trial
from warpfleet.core.peer import PeerView
from warpfleet.core.plan import Pin
from warpfleet.net.same_user import is_of_this_user

if TYPE_CHECKING:  # what commands do not need they need not wait for
    from warpfleet.actors.values import ConnectionRequest
    from warpfleet.core.identity import Identity

_log = logging.getLogger(__name__)

_LENGTH = struct.Struct("!I")
_UNREAD_MAX_BYTES = 65_536  # of progress that nobody reads: the next one says more anyway
_BACKLOG = 4096  # the kernel bounds it; one too many would be told that the socket is another user's
_CONNECT_S = 5.0  # on one machine; a daemon that does not accept within this is stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """Sweep, and record in a directory. Answered with the number of connections that should have worked and did not."""

    fleet: Fleet
    plan: SweepPlan
    directory: Path
    resume: bool
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """Connect a pair once. Answered with the connection's row."""

    fleet: Fleet
    trial: Trial
    policy: Policy
    pin: Pin


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Open a fleet's nodes, for those who come."""

    fleet: Fleet


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Answered with a `ClusterStatus`."""


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """Answered with the `Fleet` whose nodes are open, or None."""


@dataclass(frozen=True, slots=True)
class DownRequest:
    """End the cluster, once this has been answered."""


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """Have this node's pipes come to the asker, until it ends the request: the first thing it is told is `Attached`.
    Of `fleet`, or of whichever fleet the cluster serves."""

    node: str
    fleet: Fleet | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """What the asker needs to make pipes of what comes to the Unix socket `landing`, which it is to open. `peers` are
    the names of all nodes that this one trusts."""

    identity: "Identity"
    view: PeerView
    peers: frozenset[str]
    landing: Path
    realm: str


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """Connect a node that the asker is attached to. Answered with the connection's row."""

    connection: "ConnectionRequest"


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel a connection of a `LinkRequest`, which still gets its row."""

    node: str
    connection_id: str
    reason: Reason


Request = (
    SweepRequest
    | ConnectRequest
    | OpenRequest
    | StatusRequest
    | FleetRequest
    | AttachRequest
    | LinkRequest
    | CancelRequest
    | DownRequest
)


@dataclass(frozen=True, slots=True)
class Stop:
    """The one message that may follow a request: end it softly. The end of the connection means the same."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last message of an answer."""

    value: object


@dataclass(frozen=True, slots=True)
class Failed:
    """The last message of an answer that could not be given."""

    error: WarpfleetError


class ClusterBusy(WarpfleetError):
    """The cluster serves another fleet, with which somebody is at work."""


class Wire:
    """Values over a stream, each a length and a pickle. Both ends are processes of one user."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def is_private(self) -> bool:
        """Whether the other end is a process of this user."""
        return is_of_this_user(self._writer.get_extra_info("socket"))

    async def send(self, value: object) -> None:
        """Send one value. OSError where the other end is gone."""
        data = pickle.dumps(value)
        self._writer.write(_LENGTH.pack(len(data)) + data)
        await self._writer.drain()

    def post(self, value: object) -> None:
        """Send one value without waiting; it is dropped where the other end is slow to read."""
        if self._writer.transport.get_write_buffer_size() < _UNREAD_MAX_BYTES:
            data = pickle.dumps(value)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> object:
        """The next value; EOFError at the end, or where the other end is gone."""
        try:
            (size_bytes,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(size_bytes))  # noqa: S301 - a process of the same user
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EOFError from error

    async def close(self) -> None:
        """Close the stream."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class ClusterClient:
    """A cluster, as commands see it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def ask(
        self,
        request: Request,
        *,
        stopping: asyncio.Event | None = None,
        on_event: Callable[[object], None] = lambda _: None,
    ) -> object:
        """The answer to a request; `on_event` gets what is told on the way (text, `Progress`). Once `stopping` is set,
        what runs is ended softly and answered for.

        Whatever error the cluster has; MissingError where it is gone.
        """
        try:
            async with asyncio.timeout(_CONNECT_S):
                wire = Wire(*await asyncio.open_unix_connection(str(self.socket)))
        except (OSError, TimeoutError) as error:
            raise MissingError("the cluster does not answer; see `warpfleet cluster status`") from error
        stopper = asyncio.create_task(_tell_to_stop(wire, stopping)) if stopping else None
        try:
            if not wire.is_private:
                raise MissingError(f"what listens at {self.socket} is another user's")
            await wire.send((version("warpfleet"), request))
            while not isinstance(message := await wire.receive(), Done | Failed):
                on_event(message)
        except (EOFError, OSError):
            raise MissingError("the cluster went down; what was recorded stays: go on with --resume") from None
        finally:
            if stopper:
                stopper.cancel()
            await wire.close()
        if isinstance(message, Failed):
            raise message.error
        return message.value


async def _tell_to_stop(wire: Wire, stopping: asyncio.Event) -> None:
    await stopping.wait()
    with contextlib.suppress(OSError):
        await wire.send(Stop())


Tell = Callable[[object], None]

Answer = Callable[[Request, asyncio.Event, Tell], Awaitable[object]]
"""Answers a request: the request, an event that is set once the asker wants it to end, and what tells the asker of
what happens meanwhile."""


@asynccontextmanager
async def control_socket(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Requests that come to this socket are answered until the block ends; those under way are then stopped."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve(Wire(reader, writer), answer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_unix_server(accept, str(path), backlog=_BACKLOG)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(wire: Wire, answer: Answer) -> None:
    stopping = asyncio.Event()
    listening: asyncio.Task[None] | None = None
    try:
        if not wire.is_private:
            return
        their_version, request = cast("tuple[str, Request]", await wire.receive())
        if their_version != version("warpfleet") and not isinstance(request, DownRequest):
            ours = version("warpfleet")
            raise MissingError(f"the running cluster is of version {ours}; take it down: warpfleet cluster down")
        listening = asyncio.create_task(_await_stop(wire, stopping))
        await wire.send(Done(await answer(request, stopping, wire.post)))
    except WarpfleetError as error:
        with contextlib.suppress(OSError):
            await wire.send(Failed(error))
    except (EOFError, OSError):
        pass  # whoever asked is gone
    except Exception as error:  # noqa: BLE001 - whatever it is, one answer is lost and not the daemon
        _log.exception("a request failed inside")
        with contextlib.suppress(OSError):
            await wire.send(Failed(MissingError(f"the cluster failed inside: {type(error).__name__}: {error}")))
    finally:
        if listening:
            listening.cancel()
        await wire.close()


async def _await_stop(wire: Wire, stopping: asyncio.Event) -> None:
    with contextlib.suppress(EOFError):
        await wire.receive()
    stopping.set()
