"""Gives the pipes that a node wins to the program that is attached to it, where there is one on this host."""

import asyncio
import logging
import socket
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from warpfleet.actors.served_pipe import serve
from warpfleet.actors.words import Arrival, Proof, Refused, Word, Words, check_user, send_arrival
from warpfleet.core.combo import Transport
from warpfleet.core.identity import PublicIdentity
from warpfleet.net.handed_over import HandedOver
from warpfleet.net.handshake import Handshake, ProofFailed
from warpfleet.net.interfaces import ByteStream, ConnectionLost, Pipe, PipePath
from warpfleet.net.quic import QuicPipe
from warpfleet.net.sockets import TcpStream
from warpfleet.plugins.attempt_context import AttemptContext

_READY_S = 5.0  # a tunnel takes round trips of the path; a program that is stopped is not waited for

_log = logging.getLogger(__name__)


def landing_path(folder: Path, node: PublicIdentity) -> Path:
    """Where the program that is attached to a node takes its pipes: in the folder of the cluster, which is the user's
    alone."""
    return folder / node.node_id


class Lander:
    """Reaches the program that is attached to one node."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def attached(self) -> bool:
        """Whether a program seems to be there."""
        return self._path.exists()

    async def hand_over(
        self, context: AttemptContext, stream: ByteStream, handshake: Handshake, early: bytes
    ) -> HandedOver | None:
        """Have that program make the pipe of a stream on which the peer is proved, of whose tunnel `early` has come
        already; None where no program is there, and the stream is still ours. ProofFailed or ConnectionLost where it
        does not come about. The caller bounds the time."""
        assert isinstance(stream, TcpStream)
        assert handshake.peer_nonce is not None
        path = PipePath(Transport.TCP, stream.local, stream.remote, sealed=not handshake.plain)
        proof = Proof(
            attempt_id=context.attempt_id,
            combo=context.combo,
            started_at_us=context.started_at_us,
            nonce=context.nonce,
            peer_nonce=handshake.peer_nonce,
            plain=handshake.plain,
            early=early,
        )
        connected = await self._connected()
        if connected is None:
            return None
        try:
            given = stream.detach()
        except ConnectionLost:
            connected.close()
            raise
        words = await _given(connected, _arrival(context, proof=proof), given)

        def decide(keep: bool) -> None:
            if keep:
                words.say(Word.YOURS)
            words.close()

        try:
            async with asyncio.timeout(_READY_S):
                said = await words.hear()
        except TimeoutError:
            words.close()
            raise ConnectionLost("the program that the pipe is for does not answer") from None
        except BaseException:
            words.close()
            raise
        if said and said.word is Word.READY:
            return HandedOver(path, decide)
        words.close()
        if said:
            raise ProofFailed(said.detail)
        raise ConnectionLost("the program that the pipe is for has died")

    async def serve(self, context: AttemptContext, pipe: Pipe) -> bool:
        """Let that program have a pipe that stays here, until it closes it; False where no program is there. From one
        that does not take it in time nobody gets it."""
        try:
            connected = await self._connected()
        except ConnectionLost as busy:
            _log.warning("a pipe for %s is broken off: %s", self._path.name, busy)
            await pipe.abort()
            return True
        if connected is None:
            return False
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        near.setblocking(False)
        async with AsyncExitStack() as unless_taken:
            unless_taken.push_async_callback(pipe.abort)
            unless_taken.callback(near.close)
            try:
                words = await _given(connected, _arrival(context, path=pipe.path), far)
            except ConnectionLost:
                unless_taken.pop_all()
                near.close()
                return False
            unless_taken.callback(words.close)
            if not await _is_ready(words):
                return True
            unless_taken.pop_all()
        words.say(Word.YOURS)
        if isinstance(pipe, QuicPipe):
            pipe.on_move = lambda path: words.say(Word.PATH, path=path)
        words.say(Word.PATH, path=pipe.path)  # it may have moved meanwhile
        await serve(pipe, words, near)
        return True

    async def _connected(self) -> socket.socket | None:
        if not self.attached:
            return None
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            connected.connect(str(self._path))
            check_user(connected)
        except BlockingIOError:
            connected.close()
            raise ConnectionLost("the program that the pipe is for takes no more for now") from None
        except (OSError, Refused) as error:
            _log.info("nobody takes pipes at %s: %s", self._path.name, error)
            connected.close()
            return None
        return connected


def _arrival(context: AttemptContext, *, proof: Proof | None = None, path: PipePath | None = None) -> Arrival:
    return Arrival(
        connection_id=context.connection_id,
        side=context.side,
        peer=context.peer.name,
        peer_key=context.peer.key,
        proof=proof,
        path=path,
    )


async def _given(connected: socket.socket, arrival: Arrival, given: socket.socket) -> Words:
    """Send an arrival. `given` is the other process's from here on. ConnectionLost where that is gone."""
    try:
        send_arrival(connected, arrival, given)
        return await Words.over(connected)
    except OSError as error:
        connected.close()
        raise ConnectionLost(f"the program that the pipe is for is gone: {error.strerror}") from None
    except BaseException:
        connected.close()
        raise
    finally:
        given.close()


async def _is_ready(words: Words) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_S):
            said = await words.hear()
            return said is not None and said.word is Word.READY
    return False
