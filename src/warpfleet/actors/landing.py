"""Where a program that is attached to a node takes the pipes that the node's host wins for it."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from warpfleet.actors.served_pipe import ServedPipe
from warpfleet.actors.words import Arrival, Proof, Refused, Word, Words, check_user, receive_arrival
from warpfleet.actors.work import Work
from warpfleet.core.combo import Side
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import Identity, PublicIdentity
from warpfleet.net.handshake import Handshake
from warpfleet.net.interfaces import Pipe
from warpfleet.net.plain import PlainPipe
from warpfleet.net.sockets import TcpStream
from warpfleet.net.tls import TlsPipe, Tunnel

_ARRIVAL_S = 5.0  # a process of this host says at once what it brings; a tunnel takes round trips of the path
_ARRIVING_MAX = 256  # what is more waits in the socket's backlog, and is then turned away
_BACKLOG = 128
_EXHAUSTED_S = 0.5  # descriptors have run out: there is nothing to wait for but time

_log = logging.getLogger(__name__)

TakePipe = Callable[[str, Side, Pipe], None]
"""Takes a pipe: connection id, side, pipe."""


class Landing:
    """A Unix socket in a folder of the user's alone. The key of the node makes the tunnels of what arrives."""

    def __init__(self, path: Path, identity: Identity, take: TakePipe) -> None:
        self._path = path
        self._identity = identity
        self._take = take
        self._arriving = Work()
        self._turns = asyncio.Semaphore(_ARRIVING_MAX)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(str(path))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Take no more; what is arriving is turned away."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._socket.close()
        self._path.unlink(missing_ok=True)
        await self._arriving.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._turns.acquire()
            try:
                connected, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                self._turns.release()
                _log.warning("a pipe cannot be taken: %s", error)
                await asyncio.sleep(_EXHAUSTED_S)
            else:
                self._arriving.start(self._admit(connected)).add_done_callback(lambda _: self._turns.release())

    async def _admit(self, connected: socket.socket) -> None:
        try:
            async with asyncio.timeout(_ARRIVAL_S):
                check_user(connected)
                arrival, given = await receive_arrival(connected)
        except (OSError, Refused) as error:  # a deadline that has passed is an OSError
            _log.warning("what came for node %s is no pipe: %s", self._identity.name, error)
            connected.close()
            return
        except BaseException:
            connected.close()
            raise
        try:
            words = await Words.over(connected)
        except BaseException:
            given.close()
            raise
        try:
            async with asyncio.timeout(_ARRIVAL_S):
                pipe = await self._made(arrival, given, words)
        except (WarpfleetError, OSError) as error:
            words.say(Word.FAILED, str(error))
            words.close()
        except BaseException:
            words.close()
            raise
        else:
            self._take(arrival.connection_id, arrival.side, pipe)

    async def _made(self, arrival: Arrival, given: socket.socket, words: Words) -> Pipe:
        """The pipe, once it is said to have won. Its tunnel is made before, so that one which fails wins nothing."""
        made = await self._tunnel(arrival, arrival.proof, given) if arrival.proof else None
        try:
            words.say(Word.READY)
            said = await words.hear()
            if not said or said.word is not Word.YOURS:
                raise Refused("another pipe has won")
            if made:
                words.close()
                return made
            assert arrival.path
            return await ServedPipe.over(arrival.peer, arrival.path, words, given)
        except BaseException:
            await made.abort() if made else given.close()
            raise

    async def _tunnel(self, arrival: Arrival, proof: Proof, given: socket.socket) -> Pipe:
        try:
            stream = TcpStream.from_socket(given)
        except OSError:
            given.close()  # the peer has reset it on its way here
            raise
        if proof.plain:
            return PlainPipe(stream, arrival.peer)
        handshake = Handshake(
            side=arrival.side,
            identity=self._identity,
            peer=PublicIdentity(arrival.peer, arrival.peer_key),
            connection_id=arrival.connection_id,
            attempt_id=proof.attempt_id,
            combo=proof.combo,
            started_at_us=proof.started_at_us,
            nonce=proof.nonce,
            peer_nonce=proof.peer_nonce,
        )
        tunnel = Tunnel(arrival.side, self._identity)
        tunnel.feed(proof.early)
        try:
            return await TlsPipe.open(stream, tunnel, handshake, agreed=arrival.side is Side.RESPONDER)
        except BaseException:
            stream.close()
            raise
