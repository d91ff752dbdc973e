"""Forwarded connections: what is dialled, what is refused, and how either end's break is passed on.

The pipes are real ones on sockets in memory, the connections real ones on loopback.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fake_network import FakeUdp, Internet
from sealed import quic_pipes, tls_pipes
from virtual_time import virtual_time
from warpfleet.actors import forward
from warpfleet.actors.backlog import Backlog
from warpfleet.actors.carry import reset
from warpfleet.actors.forward import ForwardRefused, Refusal, ask, serve
from warpfleet.actors.forwarder import forwarded_port, serve_forwards
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import MissingError
from warpfleet.core.forward import Destination, Forwarding, Permission
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, Pipe
from warpfleet.net.vantage import Vantage

A, B = Endpoint("203.0.113.1", 1000), Endpoint("203.0.113.2", 2000)
HOME = "127.0.0.1"
BULK = bytes(range(256)) * 4096  # a window and more
DEADLINE_S = 10.0

Pair = tuple[Pipe, Pipe]


async def tls() -> Pair:
    return await tls_pipes(*Internet().stream_pair(A, B))


async def quic() -> Pair:
    internet = Internet()
    return await quic_pipes(FakeUdp(internet, A), FakeUdp(internet, B))


both_kinds = pytest.mark.parametrize("connect", [tls, quic])


@dataclass
class Place:
    """A server on loopback that says back what it has read, once it has read all of it."""

    port: int = 0
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    resets: bool = False

    @property
    def destination(self) -> Destination:
        return Destination(HOME, self.port)

    @property
    def permissions(self) -> list[Permission]:
        return [Permission(HOME, self.port)]

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        if self.resets:
            await reader.readexactly(1)
            reset(writer)
        try:
            writer.write(await reader.read())
            writer.close()
        except ConnectionError:
            pass


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    async with await asyncio.start_server(made.take, HOME, 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


@asynccontextmanager
async def served(pipe: Pipe, permissions: list[Permission]) -> AsyncIterator["asyncio.Task[Refusal | None]"]:
    """The peer's side; what it says in the end is the task's result."""
    serving = asyncio.create_task(serve(pipe, permissions, Vantage()))
    async with asyncio.timeout(DEADLINE_S):
        yield serving
        await asyncio.wait([serving])


async def all_of(pipe: Pipe) -> bytes:
    return b"".join([chunk async for chunk in pipe])


@both_kinds
async def test_what_is_permitted_is_dialled_and_either_end_passed_on(
    connect: Callable[[], Awaitable[Pair]], place: Place
) -> None:
    near, far = await connect()
    async with served(far, place.permissions) as serving, near:
        await ask(near, place.destination)
        await near.send(BULK)
        await near.send_eof()
        assert await all_of(near) == BULK
    assert serving.result() is None


async def test_what_is_not_permitted_is_not_dialled(place: Place) -> None:
    near, far = await tls()
    async with served(far, [Permission(HOME, place.port - 1), Permission("localhost", None)]) as serving, near:
        with pytest.raises(ForwardRefused, match=r"bob does not connect to 127\.0\.0\.1:.* does not permit") as refused:
            await ask(near, place.destination)
    assert refused.value.reason is serving.result() is Refusal.NOT_PERMITTED
    assert place.connections == []


async def test_nothing_is_permitted_unless_something_is(place: Place) -> None:
    near, far = await tls()
    async with served(far, []), near:
        with pytest.raises(ForwardRefused):
            await ask(near, place.destination)
    assert place.connections == []


async def test_a_name_is_looked_up_where_it_is_dialled(place: Place) -> None:
    near, far = await tls()
    async with served(far, [Permission("localhost", place.port)]), near:
        await ask(near, Destination("localhost", place.port))
        await near.send(b"hello")
        await near.send_eof()
        assert await all_of(near) == b"hello"


async def nothing_listens() -> Destination:
    async with await asyncio.start_server(lambda *_: None, HOME, 0) as server:
        return Destination(HOME, server.sockets[0].getsockname()[1])


async def a_name_without_address() -> Destination:
    return Destination("no-such-host.invalid", 80)


@pytest.mark.parametrize(
    ("where", "reason"),
    [(nothing_listens, Refusal.REFUSED), (a_name_without_address, Refusal.UNREACHABLE)],
)
async def test_why_a_permitted_host_was_not_reached_is_told(
    where: Callable[[], Awaitable[Destination]], reason: Refusal
) -> None:
    destination = await where()
    near, far = await tls()
    async with served(far, [Permission(*destination)]) as serving, near:
        with pytest.raises(ForwardRefused) as refused:
            await ask(near, destination)
    assert refused.value.reason is serving.result() is reason


async def test_a_host_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(forward, "_DIAL_S", 0.05)
    monkeypatch.setattr(forward, "_dial", never)
    near, far = await tls()
    async with served(far, place.permissions) as serving, near:
        with pytest.raises(ForwardRefused):
            await ask(near, place.destination)
    assert serving.result() is Refusal.NO_ANSWER


def frame(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


@pytest.mark.parametrize(
    "question",
    [
        frame("dial 127.0.0.1:PORT"),
        frame('{"version":2,"host":"127.0.0.1","port":PORT}'),
        frame('{"version":1,"host":"127.0.0.1","port":"PORT"}'),
        frame('{"version":1,"host":"127.0.0.1","port":PORT,"via":"x"}'),
        frame('{"version":1,"host":"127.0.0.1"}'),
        frame('{"version":1,"host":"127.1","port":PORT}'),
        frame('{"version":1,"host":"127.0.0.1","port":0}'),
        frame('{"version":1,"host":"' + "a" * 600 + '","port":1}'),
        frame("[" * 500),
        frame(""),
        b"\xff\xff",
    ],
)
async def test_what_is_no_question_is_answered_so_and_dials_nothing(question: bytes, place: Place) -> None:
    near, far = await tls()
    question = question.replace(b"PORT", f"{place.port:04}"[-4:].encode())
    async with served(far, [Permission(HOME, None)]) as serving, near:
        await near.send(question)
        assert await all_of(near) == frame('{"version":1,"refusal":"malformed"}')
    assert serving.result() is Refusal.MALFORMED
    assert place.connections == []


@virtual_time
async def test_a_peer_that_asks_for_nothing_is_not_waited_for() -> None:
    near, far = await tls()
    async with served(far, []) as serving:
        pass
    with pytest.raises(ConnectionLost, match="asks for nothing"):
        serving.result()
    assert await near.recv() == b""
    await near.close()


async def test_a_peer_that_leaves_within_its_question_is_forgotten() -> None:
    near, far = await tls()
    async with served(far, []) as serving:
        await near.send(b"\0")
        await near.close()
    with pytest.raises(ConnectionLost, match="before anything was forwarded"):
        serving.result()


@pytest.mark.parametrize("answer", [b"", frame('{"version":1}'), frame('{"version":1,"refusal":"busy"}'), b"\xff\xff"])
@virtual_time
async def test_an_answer_that_is_none_ends_the_asking(answer: bytes) -> None:
    near, far = await tls()
    async with near, far:
        await far.send(answer)
        with pytest.raises(ConnectionLost, match=r"does not answer|its answer is none"):
            await ask(near, Destination(HOME, 80))


@asynccontextmanager
async def forwarded(
    place: Place, permissions: list[Permission], connect: Callable[[], Awaitable[Pair]] = tls
) -> AsyncIterator[tuple[Endpoint, list[Pipe], list[str]]]:
    """Both ends: the local port, the peer's ends of the pipes, and what was said."""
    backlog, far_ends, said = Backlog(), list[Pipe](), list[str]()

    async def pipe() -> Pipe:
        near, far = await connect()
        far_ends.append(far)
        assert backlog.put(far)
        return near

    serving = asyncio.create_task(serve_forwards(backlog, permissions, Vantage()))
    async with (
        asyncio.timeout(DEADLINE_S),
        forwarded_port(Forwarding(HOME, 0, place.destination), pipe, said.append) as local,
    ):
        yield local, far_ends, said
    backlog.close()
    await serving


@both_kinds
async def test_connections_to_the_port_end_up_at_the_place(
    connect: Callable[[], Awaitable[Pair]], place: Place
) -> None:
    async def exchange(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*local)
        writer.write(data)
        writer.write_eof()
        echoed = await reader.read()
        writer.close()
        return echoed

    async with forwarded(place, place.permissions, connect) as (local, far_ends, said):
        words = [b"one" * 1000, BULK, b""]
        assert await asyncio.gather(*(exchange(data) for data in words)) == words
    assert (len(place.connections), len(far_ends), said) == (3, 3, [])


async def test_a_refusal_is_one_line_and_a_reset(place: Place) -> None:
    async with forwarded(place, []) as (local, _, said):
        reader, _ = await asyncio.open_connection(*local)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        [line] = said
    assert "does not permit" in line
    assert place.connections == []


@both_kinds
async def test_a_reset_beside_the_peer_resets_the_connection_here(
    connect: Callable[[], Awaitable[Pair]], place: Place
) -> None:
    place.resets = True
    async with forwarded(place, place.permissions, connect) as (local, _, _said):
        reader, writer = await asyncio.open_connection(*local)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_a_pipe_that_breaks_resets_both_connections(place: Place) -> None:
    pairs: list[Pair] = []
    streams = Internet().stream_pair(A, B)

    async def connect() -> Pair:
        pairs.append(await tls_pipes(*streams))
        return pairs[-1]

    async with forwarded(place, place.permissions, connect) as (local, _, said):
        reader, writer = await asyncio.open_connection(*local)
        writer.write(b"x")
        while not place.connections:  # noqa: ASYNC110 - the place tells nobody
            await asyncio.sleep(0.01)
        for stream in streams:
            stream.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        [line] = said
    assert line.startswith(f"the connection to {place.destination} broke: ")


async def test_no_pipe_is_one_line_and_a_reset(place: Place) -> None:
    async def refuse() -> Pair:
        raise ConnectRefused("no way to bob")

    async with forwarded(place, place.permissions, refuse) as (local, _, said):
        reader, _ = await asyncio.open_connection(*local)
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert said == ["no way to bob"]


async def test_a_port_that_is_taken_is_a_missing_thing(place: Place) -> None:
    async def connect() -> Pipe:
        raise AssertionError

    with pytest.raises(MissingError, match=f"cannot listen on 127.0.0.1:{place.port}: "):
        async with forwarded_port(Forwarding(HOME, place.port, place.destination), connect, print):
            pass
