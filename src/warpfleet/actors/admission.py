"""Which attempts peers may open with the nodes of a host."""

import logging
import re
from collections.abc import Collection

from warpfleet.actors.attempt_run import AttemptRun
from warpfleet.actors.open_node import OpenNode
from warpfleet.actors.values import IncomingSignal
from warpfleet.core.combo import Combo, Side
from warpfleet.core.identity import PublicIdentity
from warpfleet.core.peer import AddressFamily
from warpfleet.net.handshake import Frame, FrameType
from warpfleet.plugins.attempt_context import AttemptSpec
from warpfleet.plugins.contract import Strategy

# A stream that a peer opened has been connected already: what follows is a proof of a few round trips.
_STREAM_TIMEOUT_S = 15.0
# So many attempts may peers have open with one node at a time: ten connections with every technique at once.
_RESPONDER_ATTEMPTS_MAX = 128
_ATTEMPTS_OF_A_PEER_MAX = 48  # so that one peer leaves room for others
_ANSWERED_MAX = 4096  # a signal is late by seconds: that is hundreds of attempts a second
_CONNECTION_ID = re.compile(r"[0-9a-f]{32}")

_log = logging.getLogger(__name__)


class Admission:
    """The limits that the attempts of one plugin keep; `running` has those that run, at any time."""

    def __init__(self, strategy: type[Strategy], running: Collection[AttemptRun]) -> None:
        self._strategy = strategy
        self._running = running
        self._answered: dict[tuple[str, str], None] = {}  # attempts that peers have opened and that are over

    def by_message(self, node: OpenNode, signal: IncomingSignal) -> AttemptSpec | None:
        """The attempt that a peer's message opens; None where it opens none."""
        message = signal.message
        if message is None or not message.opens:
            return None
        if (node.name, signal.attempt_id) in self._answered:
            return None  # a stream was faster, or the message comes again
        return AttemptSpec(
            attempt_id=signal.attempt_id,
            connection_id=signal.connection_id,
            started_at_us=message.started_at_us,
            side=Side.RESPONDER,
            combo=Combo(self._strategy.name, message.af, message.route),
            timeout_s=message.timeout_s,
            opening=message,
            rtt_ms=message.rtt_ms,
            wishes=node.wishes,
        )

    def by_frame(self, node: OpenNode, frame: Frame, af: AddressFamily) -> AttemptSpec | None:
        """The attempt that the first frame of a peer's stream opens; None where it opens none."""
        if frame.type is not FrameType.HELLO or not self._strategy.accepts_streams:
            return None
        return AttemptSpec(
            attempt_id=frame.attempt_id,
            connection_id=frame.connection_id,
            started_at_us=frame.started_at_us,
            side=Side.RESPONDER,
            combo=Combo(self._strategy.name, af, frame.route),
            timeout_s=_STREAM_TIMEOUT_S,
            wishes=node.wishes,
        )

    def admits(self, node: OpenNode, peer: PublicIdentity, spec: AttemptSpec) -> bool:
        """Whether a peer may open this attempt now."""
        open_here = [r for r in self._running if r.node is node and r.context.side is Side.RESPONDER]
        of_peer = sum(run.context.peer == peer for run in open_here)
        known = _CONNECTION_ID.fullmatch(spec.connection_id) and spec.combo.route in self._strategy.routes
        full = len(open_here) >= _RESPONDER_ATTEMPTS_MAX or of_peer >= _ATTEMPTS_OF_A_PEER_MAX
        if node.factory is None or not known or full:
            _log.info("%s opens an attempt with %s that is refused", peer.name, node.name)
            return False
        return True

    def ended(self, node: str, spec: AttemptSpec) -> None:
        """Remember a node's attempt that the peer opened, whose message may still come."""
        if spec.side is Side.RESPONDER:
            self._answered[node, spec.attempt_id] = None
            while len(self._answered) > _ANSWERED_MAX:
                del self._answered[next(iter(self._answered))]
