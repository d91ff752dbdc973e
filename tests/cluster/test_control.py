"""The daemon's socket: requests are answered, told of, stopped, and refused in words."""

import asyncio
from pathlib import Path

import pytest

from warpfleet.cluster import control
from warpfleet.cluster.control import ClusterClient, DownRequest, Request, StatusRequest, Tell, control_socket
from warpfleet.core.errors import InputError, MissingError


async def until_stopped(_request: Request, stopping: asyncio.Event, tell: Tell) -> object:
    """Answers once it is to end."""
    tell("waiting")
    await stopping.wait()
    return "stopped"


async def refuse(_request: Request, _stopping: asyncio.Event, _tell: Tell) -> object:
    """Answers with an error."""
    raise InputError("it is wrong; mend it")


async def at_once(request: Request, _stopping: asyncio.Event, _tell: Tell) -> object:
    """Answers with what was asked."""
    return request


async def test_an_answer_comes_with_what_was_told_before_it(tmp_path: Path) -> None:
    told: list[object] = []
    stopping = asyncio.Event()

    def on_event(event: object) -> None:
        told.append(event)
        stopping.set()

    async with control_socket(tmp_path / "control", until_stopped), asyncio.timeout(10):
        client = ClusterClient(tmp_path / "control")
        assert await client.ask(StatusRequest(), stopping=stopping, on_event=on_event) == "stopped"
    assert told == ["waiting"]


async def test_errors_are_those_of_the_daemon(tmp_path: Path) -> None:
    async with control_socket(tmp_path / "control", refuse), asyncio.timeout(10):
        with pytest.raises(InputError, match="it is wrong; mend it"):
            await ClusterClient(tmp_path / "control").ask(StatusRequest())


async def test_a_fault_inside_is_told_and_ends_one_answer_only(tmp_path: Path) -> None:
    faults = iter([RuntimeError("a fault"), None])

    async def answer(_request: Request, _stopping: asyncio.Event, _tell: Tell) -> object:
        if fault := next(faults):
            raise fault
        return "fine"

    async with control_socket(tmp_path / "control", answer), asyncio.timeout(10):
        client = ClusterClient(tmp_path / "control")
        with pytest.raises(MissingError, match="failed inside: RuntimeError: a fault"):
            await client.ask(StatusRequest())
        assert await client.ask(StatusRequest()) == "fine"


async def test_another_user_is_neither_answered_nor_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    async def answer(request: Request, _stopping: asyncio.Event, _tell: Tell) -> object:
        asked.append(request)
        return None

    async with control_socket(tmp_path / "control", answer), asyncio.timeout(10):
        monkeypatch.setattr(control, "is_of_this_user", lambda _: False)
        with pytest.raises(MissingError, match="another user's"):
            await ClusterClient(tmp_path / "control").ask(StatusRequest())
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        assert await reader.read() == b""
        writer.close()
    assert asked == []


async def test_whoever_goes_away_wants_it_stopped(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def answer(request: Request, stopping: asyncio.Event, tell: Tell) -> object:
        await until_stopped(request, stopping, tell)
        ended.set()
        return None

    async with control_socket(tmp_path / "control", answer), asyncio.timeout(10):
        asking = asyncio.create_task(
            ClusterClient(tmp_path / "control").ask(StatusRequest(), on_event=lambda _: asking.cancel())
        )
        await ended.wait()
    assert asking.cancelled(), "which nobody else has stopped"


async def test_a_daemon_that_is_gone_or_goes_is_missing(tmp_path: Path) -> None:
    client = ClusterClient(tmp_path / "control")
    with pytest.raises(MissingError, match="does not answer"):
        await client.ask(StatusRequest())
    told = asyncio.Event()
    async with asyncio.timeout(10):
        async with control_socket(tmp_path / "control", until_stopped):
            asking = asyncio.create_task(client.ask(StatusRequest(), on_event=lambda _: told.set()))
            await told.wait()
        with pytest.raises(MissingError, match="went down"):
            await asking


async def test_another_version_is_refused_but_may_take_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["0.0", "1.0", "1.0", "0.0", "1.0"])
    monkeypatch.setattr(control, "version", lambda _: next(versions))
    async with control_socket(tmp_path / "control", at_once), asyncio.timeout(10):
        client = ClusterClient(tmp_path / "control")
        with pytest.raises(MissingError, match=r"version 1\.0; take it down"):
            await client.ask(StatusRequest())
        assert await client.ask(DownRequest()) == DownRequest()
