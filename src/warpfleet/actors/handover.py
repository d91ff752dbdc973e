"""Passes sockets between the processes of one host, as file descriptors over Unix sockets: inbound TCP streams, and the
direct paths of pipes."""

import array
import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from warpfleet.actors.plugin_host import Handed
from warpfleet.core.combo import Side, Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ByteStream, ConnectionLost, DatagramSocket
from warpfleet.net.proved_path import ProvedPath
from warpfleet.net.quic import DatagramPath
from warpfleet.net.sockets import TcpStream, UdpSocket
from warpfleet.net.stream_datagrams import StreamDatagrams
from warpfleet.plugins.inbox import InboundStream

_RETRY_S = 0.002  # a process takes its datagrams up within a turn of its event loop
_WAITING_MAX = 256  # sockets; a process that lets so many wait is stuck

_log = logging.getLogger(__name__)
_MESSAGE_MAX_BYTES = 4096  # a frame in hexadecimal, names and addresses: a quarter of that


class _Parcel(NamedTuple):
    plugin: str
    message: bytes
    socket: socket.socket


class SocketHandover:
    """One process's end. `directory` is private to the user (0700) and has one socket for each plugin.

    A datagram says in JSON what it is and for which node; the descriptor goes with it (SCM_RIGHTS, unix(7)).
    """

    def __init__(self, directory: Path, plugin: str, adopt: Callable[[str, Handed], None]) -> None:
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

    def send(self, plugin: str, node: str, handed: Handed) -> None:
        """Give a stream or a path to the process of another plugin, as soon as that takes it; it is no longer ours."""
        with suppress(ConnectionLost):
            self._waiting.append(_Parcel(plugin, _written(node, handed), _detached(handed)))
            self._flush()

    def _flush(self) -> None:
        """Send what waits, in order; the kernel holds ten datagrams for a process that is busy, and then says so."""
        while self._waiting:
            parcel = self._waiting[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [parcel.socket.fileno()]))]
            try:
                self._outbound.sendmsg([parcel.message], rights, 0, str(self._directory / parcel.plugin))
            except BlockingIOError:
                if len(self._waiting) <= _WAITING_MAX:
                    self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._flush)
                    return
                _log.warning("the process of plugin %s takes no sockets: one is closed", parcel.plugin)
            except OSError as error:
                _log.warning("the process of plugin %s is not there: a socket is closed: %s", parcel.plugin, error)
            self._waiting.popleft().socket.close()

    def close(self) -> None:
        """Stop receiving."""
        asyncio.get_running_loop().remove_reader(self._inbound)
        if self._retry:
            self._retry.cancel()
        while self._waiting:
            self._waiting.popleft().socket.close()
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
                node, handed = _read(message, opened)
            except OSError:
                opened.close()  # the peer has reset it on its way here
            else:
                self._adopt(node, handed)


def _detached(handed: Handed) -> socket.socket:
    carrier: ByteStream | DatagramSocket = handed.stream if isinstance(handed, InboundStream) else handed.way.socket
    carrier = carrier.stream if isinstance(carrier, StreamDatagrams) else carrier
    assert isinstance(carrier, TcpStream | UdpSocket)
    return carrier.detach()


def _written(node: str, handed: Handed) -> bytes:
    if isinstance(handed, InboundStream):
        return json.dumps({"node": node, "first_frame": handed.first_frame.hex()}).encode()
    pipe = {"plugin": handed.plugin, "connection_id": handed.connection_id, "peer": handed.peer, "side": handed.side}
    return json.dumps(
        {"node": node, "pipe": pipe, "remote": handed.way.remote, "answer": handed.way.answer.hex()}
    ).encode()


def _read(message: bytes, opened: socket.socket) -> tuple[str, Handed]:
    content = json.loads(message)
    if "first_frame" in content:
        return content["node"], InboundStream(TcpStream.from_socket(opened), bytes.fromhex(content["first_frame"]))
    pipe, remote, answer = content["pipe"], Endpoint(*content["remote"]), bytes.fromhex(content["answer"])
    if opened.type == socket.SOCK_STREAM:
        stream = StreamDatagrams(TcpStream.from_socket(opened))
        way = DatagramPath(stream, remote, transport=Transport.TCP, answer=answer)
    else:
        way = DatagramPath(UdpSocket.from_socket(opened), remote, answer=answer)
    return content["node"], ProvedPath(**pipe | {"side": Side(pipe["side"])}, way=way)
