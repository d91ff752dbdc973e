"""What an offer greets with, so that the first frame of the responder proves it and its tunnel has begun by then."""

import asyncio
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.attempt_context import AttemptContext, Begun

_DATAGRAM_MAX_BYTES = 1500  # what a path carries in one piece
_FLIGHT_MAX = 2  # datagrams: either end's first flight fits into one, with room for a longer certificate

Flight = Annotated[tuple[Annotated[bytes, Field(max_length=_DATAGRAM_MAX_BYTES)], ...], Field(max_length=_FLIGHT_MAX)]
"""The first flight of one end of a tunnel, as datagrams."""


class Greeting(BaseModel):
    """What lets the responder prove itself at once, and begin its end of the tunnel: the initiator's HELLO, and the
    first flight of its tunnel."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    hello: bytes = Field(min_length=FRAME_BYTES, max_length=FRAME_BYTES)
    flight: Flight


def greet(context: AttemptContext) -> tuple[Greeting, Begun]:
    """The initiator's greeting, and what it has begun by that."""
    handshake, tunnel = context.handshake(), context.tunnel()
    flight = tunnel.connect(asyncio.get_running_loop().time(), by_signal=True)
    return Greeting(hello=handshake.opener(), flight=tuple(flight)), Begun(handshake, tunnel, flight)


def greeted(context: AttemptContext, greeting: Greeting) -> Begun:
    """What the responder begins where it is greeted."""
    tunnel, now_s = context.tunnel(), asyncio.get_running_loop().time()
    for datagram in greeting.flight:
        tunnel.receive(datagram, now_s)
    return Begun(context.handshake(), tunnel, tunnel.outgoing(now_s), greeting.hello)
