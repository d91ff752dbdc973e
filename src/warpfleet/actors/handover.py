"""Passes connected TCP streams between the processes of one host, as file descriptors over Unix sockets."""

import array
import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.net.sockets import TcpStream
from warpfleet.plugins.contract import InboundStream

_MESSAGE_MAX_BYTES = FRAME_BYTES + 256  # the frame that was read, then the node's name


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
        asyncio.get_running_loop().add_reader(self._inbound, self._receive)

    def send(self, plugin: str, node: str, inbound: InboundStream) -> None:
        """Give a stream to the process of another plugin; it is closed here in any case."""
        stream = inbound.stream
        assert isinstance(stream, TcpStream)
        with stream.detach() as descriptor, contextlib.suppress(OSError):
            message = inbound.first_frame + node.encode()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor.fileno()]))]
            self._outbound.sendmsg([message], rights, 0, str(self._directory / plugin))

    def close(self) -> None:
        """Stop receiving."""
        asyncio.get_running_loop().remove_reader(self._inbound)
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
            stream = TcpStream.from_socket(opened)
            self._adopt(message[FRAME_BYTES:].decode(), InboundStream(stream, message[:FRAME_BYTES]))
