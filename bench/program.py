"""A program of `bench.host`, in the network namespace of one host of the laboratory."""

import asyncio
import itertools
import json
import os
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
_READY_S = 60.0  # warpgate takes some ten seconds, several at once on two cores more
_END_S = 5.0
_GRACE_S = 10.0  # beyond the time limit that a request names itself
_LINE_MAX_BYTES = 1 << 20


class ProgramFailed(Exception):
    """The program does not start, does not answer, or has ended; the message is the last line of its log."""


class Program:
    """Started with `start`; several requests may be under way."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._ids = itertools.count()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.address: object = None

    @classmethod
    async def start(cls, python: Path, module: str, settings: dict[str, Any], *, namespace: str, folder: Path) -> Self:
        """Start it and return once it is ready. `folder` is made for it. ProgramFailed."""
        folder.mkdir()  # noqa: ASYNC240 - a local folder
        log = folder / "log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(
                    "ip",
                    "netns",
                    "exec",
                    namespace,
                    str(python),
                    "-m",
                    module,
                    json.dumps(settings | {"folder": str(folder)}),
                ),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
                limit=_LINE_MAX_BYTES,
                start_new_session=True,  # Ctrl-C reaches only us
            )
        program = cls(process, log)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_READY_S):
                line = await process.stdout.readline()
        except TimeoutError:
            await program.end()
            raise program.failed(f"not ready after {_READY_S:.0f} s") from None
        except BaseException:
            await program.end()
            raise
        if not line:
            raise program.failed("ended at once")
        program.address = json.loads(line)["address"]
        program._reading = asyncio.create_task(program._read())
        return program

    @property
    def pid(self) -> int:
        """Its process, which the program may have started others below."""
        return self._process.pid

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request of `bench.host`. ProgramFailed."""
        assert self._process.stdin is not None
        if self._reading is None or self._reading.done():
            raise self.failed("has ended")
        number = next(self._ids)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(json.dumps(request | {"id": number}).encode() + b"\n")
            async with asyncio.timeout(request.get("limit_s", 0.0) + _GRACE_S):
                found: dict[str, Any] = await answer
                return found
        except (TimeoutError, OSError):
            raise self.failed("does not answer") from None
        finally:
            del self._asked[number]

    async def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading:
            await self._reading

    def failed(self, what: str) -> ProgramFailed:
        """What to raise."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return ProgramFailed(f"{what}: {lines[-1]}" if lines else what)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            if asked := self._asked.get(answer.pop("id")):
                asked.set_result(answer)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(self.failed("ended"))
