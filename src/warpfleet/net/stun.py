"""STUN (RFC 8489) with aioice's codec. Of aioice's `stun` module, only this one and the relay know anything."""

import asyncio
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from aioice import stun as codec

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ByteStream, ConnectionLost

Message = codec.Message
Class = codec.Class
Method = codec.Method
TransactionError = codec.TransactionError
TransactionFailed = codec.TransactionFailed
TransactionTimeout = codec.TransactionTimeout

# RFC 8489 section 6.2.1 would start at 500 ms, where the round trip is not known: a binding request is 20 bytes, and
# what a lost one costs here is waiting. So 100 ms, doubling, and no gap beyond 1.6 s.
FIRST_RTO_S = 0.1
LAST_RTO_S = 1.6

CHANGE_IP = 0x04  # RFC 5780 section 7.2
CHANGE_PORT = 0x02
_HEADER = struct.Struct("!HHI12s")
_PORT = struct.Struct("!HH")


def _pack_port(port: int) -> bytes:
    return _PORT.pack(port, 0)


def _unpack_port(data: bytes) -> int:
    return int(_PORT.unpack(data)[0])


# What the codec lacks: RFC 8656 sections 18.4 and 18.6, RFC 5780 section 7.5 (a port, and two bytes of padding).
_FURTHER_ATTRIBUTES: tuple[codec.AttributeEntry, ...] = (
    (0x0013, "DATA", codec.pack_bytes, codec.unpack_bytes),
    (0x0027, "RESPONSE-PORT", _pack_port, _unpack_port),
    (0x0017, "REQUESTED-ADDRESS-FAMILY", codec.pack_unsigned, codec.unpack_unsigned),
)
for _entry in _FURTHER_ATTRIBUTES:
    codec.ATTRIBUTES_BY_TYPE[_entry[0]] = _entry
    codec.ATTRIBUTES_BY_NAME[_entry[1]] = _entry


class Answer(NamedTuple):
    """A binding response: our mapped address, where the response came from, and the server's other address, if any."""

    mapped: Endpoint
    source: Endpoint
    other: Endpoint | None


def parse(data: bytes) -> codec.Message | None:
    """The STUN message in a datagram; None where it is none, or a malformed one."""
    try:
        return codec.parse_message(data)
    except (ValueError, struct.error, IndexError):
        return None


def transaction_id(data: bytes) -> bytes | None:
    """The transaction id in the header of a STUN message; None where the bytes are none (RFC 8489 section 5)."""
    if len(data) < _HEADER.size:
        return None
    kind, _, cookie, identity = _HEADER.unpack_from(data)
    return bytes(identity) if cookie == codec.COOKIE and kind < 0x4000 else None


def endpoint_in(message: codec.Message, *names: str) -> Endpoint | None:
    """The address in the first of the named attributes that is there."""
    for name in names:
        if name in message.attributes:
            return Endpoint(*message.attributes[name])
    return None


def send_times_s(timeout_s: float) -> Iterator[float]:
    """When a request is sent, and sent again, in seconds from its start."""
    at_s, rto_s = 0.0, FIRST_RTO_S
    while at_s < timeout_s:
        yield at_s
        at_s += rto_s
        rto_s = min(2 * rto_s, LAST_RTO_S)


class Transactions:
    """The STUN transactions of one datagram socket. Whoever reads the socket offers every datagram to `feed`."""

    def __init__(self, send: Callable[[bytes, Endpoint], None]) -> None:
        self._send = send
        self._expected: dict[bytes, asyncio.Future[tuple[codec.Message, Endpoint]]] = {}

    def feed(self, data: bytes, source: Endpoint) -> bool:
        """Whether the datagram belongs to an open transaction, which then has it."""
        waiter = self._expected.get(transaction_id(data) or b"")
        message = parse(data) if waiter is not None else None
        if waiter is None or message is None:
            return False
        if not waiter.done():
            waiter.set_result((message, source))
        return True

    async def binding(self, server: Endpoint, *, timeout_s: float, change: int = 0) -> Answer:
        """Ask for the mapped address, and again until it is answered. TimeoutError where it is not, or with an error.

        `change` is CHANGE_IP, CHANGE_PORT or both: from where the server is asked to answer (RFC 5780 section 7.2).
        """
        request = codec.Message(codec.Method.BINDING, codec.Class.REQUEST)
        if change:
            request.attributes["CHANGE-REQUEST"] = change
        times_s = list(send_times_s(timeout_s))
        message, source = await self.exchange(request, server, times_s=times_s, timeout_s=timeout_s)
        return _answer(message, source)

    async def exchange(
        self,
        request: codec.Message,
        remote: Endpoint,
        *,
        times_s: list[float],
        timeout_s: float | None,
        heard_by: "Transactions | None" = None,
        sent: asyncio.Event | None = None,
    ) -> tuple[codec.Message, Endpoint]:
        """Send at each of `times_s`, the first of which is 0, until a message with the request's id arrives.

        It is listened for here, or at `heard_by`. TimeoutError where none arrives; None leaves the deadline to the
        caller. `sent` is set once nothing more is going to be sent.
        """
        loop = asyncio.get_running_loop()
        listener = heard_by or self
        waiter: asyncio.Future[tuple[codec.Message, Endpoint]] = loop.create_future()
        listener._expected[request.transaction_id] = waiter
        data = bytes(request)
        self._send(data, remote)
        timers = [loop.call_later(at_s, self._send, data, remote) for at_s in times_s if at_s > 0]
        if sent:
            timers.append(loop.call_later(times_s[-1], sent.set))
        try:
            # Not `asyncio.timeout`: an answer that came in while a busy loop let the deadline pass still counts.
            await asyncio.wait({waiter}, timeout=timeout_s)
            if not waiter.done():
                raise TimeoutError(f"{remote} did not answer within {timeout_s:.3g} s")
            return waiter.result()
        finally:
            for timer in timers:
                timer.cancel()
            if sent:
                sent.set()
            del listener._expected[request.transaction_id]


async def binding_over_stream(stream: ByteStream, *, timeout_s: float) -> Answer:
    """Ask a STUN server over TCP for our mapped address (RFC 8489 section 6.2.2). TimeoutError or ConnectionLost."""
    request = codec.Message(codec.Method.BINDING, codec.Class.REQUEST)
    async with asyncio.timeout(timeout_s):
        await stream.write(bytes(request))
        message = parse(await read_message(stream))
    if message is None or message.transaction_id != request.transaction_id:
        raise ConnectionLost(f"{stream.remote} does not speak STUN")
    return _answer(message, stream.remote)


async def read_message(stream: ByteStream) -> bytes:
    """One STUN message of a TCP stream. ConnectionLost where the stream ends, or carries something else."""
    header = await stream.read_exactly(_HEADER.size)
    if transaction_id(header) is None:
        raise ConnectionLost(f"{stream.remote} does not speak STUN")
    return header + await stream.read_exactly(_HEADER.unpack(header)[1])


def _answer(message: codec.Message, source: Endpoint) -> Answer:
    mapped = endpoint_in(message, "XOR-MAPPED-ADDRESS", "MAPPED-ADDRESS")
    if message.message_class != codec.Class.RESPONSE or mapped is None:
        raise TimeoutError(f"{source} answered without a mapped address{_error_in(message)}")
    return Answer(mapped, source, endpoint_in(message, "OTHER-ADDRESS", "CHANGED-ADDRESS"))


def _error_in(message: codec.Message) -> str:
    error: Any = message.attributes.get("ERROR-CODE")
    return f": error {error[0]} {error[1]}" if error else ""
