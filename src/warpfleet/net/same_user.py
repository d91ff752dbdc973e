"""Whose process is at the other end of a Unix socket."""

import os
import socket
import struct
from asyncio.trsock import TransportSocket

_CREDENTIALS = struct.Struct("3i")  # struct ucred of socket(7): pid, uid, gid


def is_of_this_user(connected: socket.socket | TransportSocket) -> bool:
    """Whether it is one of this process's user, as the kernel tells (SO_PEERCRED, unix(7))."""
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(found)[1] == os.geteuid())
