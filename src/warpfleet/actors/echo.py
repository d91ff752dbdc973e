"""What a sweep does with a won pipe: time the first byte and the round trip; the other end echoes."""

import asyncio
import secrets
import statistics
from dataclasses import dataclass

from warpfleet.net.interfaces import ConnectionLost, Pipe

_TOKEN_BYTES = 16
_ROUNDS = 3  # the first is the first byte; the median of three forgives one hiccup
_ROUND_S = 2.0
_IDLE_S = 40.0  # an initiator measures again when its pipe has moved: at the end of the walk, which takes 30 s at most


@dataclass(frozen=True, slots=True)
class Measured:
    """When the first byte came back (monotonic seconds), and the median round trip in milliseconds."""

    first_byte_at_s: float
    rtt_ms: float


async def measure(pipe: Pipe) -> Measured | None:
    """Echo a few tokens; None where the first did not come back in time."""
    loop = asyncio.get_running_loop()
    first_byte_at_s = 0.0
    round_trips_ms: list[float] = []
    try:
        for _ in range(_ROUNDS):
            began_s = loop.time()
            async with asyncio.timeout(_ROUND_S):
                await _round(pipe)
            first_byte_at_s = first_byte_at_s or loop.time()
            round_trips_ms.append((loop.time() - began_s) * 1000)
    except (TimeoutError, ConnectionLost):
        if not round_trips_ms:
            return None
    return Measured(first_byte_at_s, statistics.median(round_trips_ms))


async def _round(pipe: Pipe) -> None:
    token = secrets.token_bytes(_TOKEN_BYTES)
    await pipe.send(token)
    received = b""
    while not received.endswith(token):
        data = await pipe.recv()
        if not data:
            raise ConnectionLost("closed by the peer")
        received = (received + data)[-2 * _TOKEN_BYTES :]


async def echo(pipe: Pipe) -> None:
    """Send back what comes, until the pipe ends or nothing has come for a while."""
    try:
        while True:
            async with asyncio.timeout(_IDLE_S):
                data = await pipe.recv()
                if not data:
                    return
                await pipe.send(data)
    except (TimeoutError, ConnectionLost):
        return
    finally:
        await pipe.close()
