"""Passes connected TCP streams between the processes of one host, as file descriptors over Unix sockets."""

import array
import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.interfaces import ConnectionLost
from warpfleet.net.sockets import TcpStream
from warpfleet.plugins.contract import InboundStream

_RETRY_S = 0.002  # a process takes its datagrams up within a turn of its event loop
_WAITING_MAX = 256  # streams; a process that lets so many wait is stuck

_log = logging.getLogger(__name__)
_MESSAGE_MAX_BYTES = FRAME_BYTES + 256  # the frame that was read, then the node's name


class _Parcel(NamedTuple):
    plugin: str
    message: bytes
    stream: socket.socket


class StreamHandover:
    """One process's end. `directory` is private to the user (0700) and has one socket for each plugin.

    A datagram is the first frame and the node's name; the stream's descriptor goes with it (SCM_RIGHTS, unix(7)).
    """

    def __init__(self, directory: Path, plugin: str, adopt: Callable[[str, InboundStream], None]) -> None:
        self._directory = directory
        self._adopt = adopt
        self._path = directory / plugin
        self._path.unlink(missing_ok=True)
        self._inbound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inbound.setblocking(False)
        self._inbound.bind(str(self._path))
        self._outbound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._outbound.setblocking(False)
        self._waiting: deque[_Parcel] = deque()
        self._retry: asyncio.TimerHandle | None = None
        asyncio.get_running_loop().add_reader(self._inbound, self._receive)

    def send(self, plugin: str, node: str, inbound: InboundStream) -> None:
        """Give a stream to the process of another plugin, as soon as that takes it; it is no longer ours."""
        stream = inbound.stream
        assert isinstance(stream, TcpStream)
        with suppress(ConnectionLost):
            self._waiting.append(_Parcel(plugin, inbound.first_frame + node.encode(), stream.detach()))
            self._flush()

    def _flush(self) -> None:
        """Send what waits, in order; the kernel holds ten datagrams for a process that is busy, and then says so."""
        while self._waiting:
            parcel = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [parcel.stream.fileno()]))]
            try:
                self._outbound.sendmsg([parcel.message], rights, 0, str(self._directory / parcel.plugin))
            except BlockingIOError:
                if len(self._waiting) <= _WAITING_MAX:
                    self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._flush)
                    return
                _log.warning("the process of plugin %s takes no streams: one is closed", parcel.plugin)
            except OSError as error:
                _log.warning("the process of plugin %s is not there: a stream is closed: %s", parcel.plugin, error)
            self._waiting.popleft().stream.close()

    def close(self) -> None:
        """Stop receiving."""
        asyncio.get_running_loop().remove_reader(self._inbound)
        if self._retry:
            self._retry.cancel()
        while self._waiting:
            self._waiting.popleft().stream.close()
        self._inbound.close()
        self._outbound.close()
        self._path.unlink(missing_ok=True)

    def _receive(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._inbound, _MESSAGE_MAX_BYTES, 1)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            opened = socket.socket(fileno=descriptor)
            opened.setblocking(False)
            try:
                stream = TcpStream.from_socket(opened)
            except OSError:
                opened.close()  # the peer has reset it on its way here
            else:
                self._adopt(message[FRAME_BYTES:].decode(), InboundStream(stream, message[:FRAME_BYTES]))
