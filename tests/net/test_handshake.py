"""The proof of identity: every state and input of both roles, and every way in which frames may arrive or be forged."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_node import ALICE, ATTEMPT_ID, BOB, COMBO, CONNECTION_ID, MALLORY, STARTED_AT_US, handshakes
from warpfleet.core.combo import RouteType
from warpfleet.core.identity import Identity
from warpfleet.net.handshake import FRAME_BYTES, NONCE_BYTES, Event, Frame, FrameType, Handshake, ProofFailed, Received

ANSWERED = {FrameType.KNOCK: FrameType.HELLO, FrameType.HELLO: FrameType.PROOF, FrameType.TAKE: FrameType.AGREED}
CHALLENGE = bytes(range(NONCE_BYTES))


def kind(frame: bytes | None) -> FrameType | None:
    return Frame.parse(frame).type if frame else None


def transcript() -> dict[FrameType, bytes]:
    """One whole run: every frame, as it was sent."""
    initiator, responder = handshakes()
    frames = {FrameType.KNOCK: responder.opener(), FrameType.HELLO: initiator.opener()}
    frames[FrameType.PROOF] = responder.receive(frames[FrameType.HELLO]).reply or b""
    initiator.receive(frames[FrameType.PROOF])
    frames[FrameType.TAKE] = initiator.take()
    frames[FrameType.AGREED] = responder.receive(frames[FrameType.TAKE]).reply or b""
    frames[FrameType.SEAL] = initiator.seal()
    frames[FrameType.MOVE] = initiator.move("turn")
    frames[FrameType.CHECK] = initiator.check(CHALLENGE)
    frames[FrameType.CHECKED] = responder.receive(frames[FrameType.CHECK]).reply or b""
    frames[FrameType.CLOSE] = responder.close()
    return frames


FRAMES = transcript()


def test_the_five_steps() -> None:
    initiator, responder = handshakes()
    assert kind(responder.opener()) is FrameType.KNOCK
    hello = initiator.receive(responder.opener())
    assert (hello.event, kind(hello.reply)) == (Event.KNOCKED, FrameType.HELLO)
    proof = responder.receive(hello.reply or b"")
    assert (proof.event, kind(proof.reply)) == (Event.GREETED, FrameType.PROOF)
    assert initiator.receive(proof.reply or b"") == Received(Event.PROVED)
    agreed = responder.receive(initiator.take())
    assert (agreed.event, kind(agreed.reply)) == (Event.TAKEN, FrameType.AGREED)
    assert initiator.receive(agreed.reply or b"") == Received(Event.AGREED)
    assert responder.receive(initiator.close()) == initiator.receive(responder.close()) == Received(Event.CLOSED)


FAILS = "fails"
# How far each role has come, and what each frame of the same run then means: an event and the frame that answers.
INITIATOR_TABLE = {
    (): {
        "KNOCK": ("KNOCKED", "HELLO"),
        "PROOF": ("PROVED", None),
        "AGREED": FAILS,
        "CLOSE": ("CLOSED", None),
        "CHECKED": ("CHECKED", None),
    },
    ("PROOF",): {
        "KNOCK": ("KNOCKED", "HELLO"),
        "PROOF": ("PROVED", None),
        "AGREED": ("AGREED", None),
        "CLOSE": ("CLOSED", None),
    },
}
RESPONDER_TABLE = {
    (): {
        "HELLO": ("GREETED", "PROOF"),
        "TAKE": FAILS,
        "MOVE": FAILS,
        "SEAL": FAILS,
        "CHECK": ("NOTHING", "CHECKED"),
    },
    ("HELLO",): {
        "HELLO": ("GREETED", "PROOF"),
        "TAKE": ("TAKEN", "AGREED"),
        "MOVE": ("MOVED", "AGREED"),
        "SEAL": ("SEALED", None),
        "CHECK": ("NOTHING", "CHECKED"),
    },
    ("HELLO", "TAKE"): {"HELLO": ("GREETED", "PROOF"), "TAKE": ("TAKEN", "AGREED")},
}
CASES = [(0, state, frame, meaning) for state, row in INITIATOR_TABLE.items() for frame, meaning in row.items()] + [
    (1, state, frame, meaning) for state, row in RESPONDER_TABLE.items() for frame, meaning in row.items()
]


@pytest.mark.parametrize(("role", "state", "frame", "meaning"), CASES)
def test_every_state_takes_every_frame_of_the_peer(
    role: int, state: tuple[str, ...], frame: str, meaning: str | tuple[str, str | None]
) -> None:
    side = handshakes()[role]
    for earlier in state:
        side.receive(FRAMES[FrameType[earlier]])
    if isinstance(meaning, str):
        with pytest.raises(ProofFailed):
            side.receive(FRAMES[FrameType[frame]])
        return
    received = side.receive(FRAMES[FrameType[frame]])
    answer = kind(received.reply)
    assert (received.event.name, answer.name if answer else None) == meaning


@pytest.mark.parametrize(
    ("role", "frame"),
    [
        (0, FrameType.HELLO),
        (0, FrameType.TAKE),
        (0, FrameType.SEAL),
        (0, FrameType.MOVE),
        (1, FrameType.KNOCK),
        (1, FrameType.PROOF),
        (1, FrameType.AGREED),
    ],
)
def test_frames_that_the_peers_role_never_sends_mean_nothing(role: int, frame: FrameType) -> None:
    own = handshakes()
    me, peer = (ALICE, BOB) if role == 0 else (BOB, ALICE)
    odd = replace(Frame.parse(FRAMES[frame]), sender=peer.public.key).sign(peer, me.public)
    assert own[role].receive(odd) == Received()


@pytest.mark.parametrize("frame", list(FrameType))
def test_a_byte_that_was_tampered_with_fails(frame: FrameType) -> None:
    from_responder = frame in (
        FrameType.KNOCK,
        FrameType.PROOF,
        FrameType.AGREED,
        FrameType.CLOSE,
        FrameType.CHECKED,
    )
    receiver = handshakes()[0 if from_responder else 1]
    for position in range(FRAME_BYTES):
        changed = bytearray(FRAMES[frame])
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(ProofFailed):
            receiver.receive(bytes(changed))


@given(st.binary(max_size=2 * FRAME_BYTES) | st.binary(min_size=FRAME_BYTES, max_size=FRAME_BYTES))
def test_garbage_of_any_length_only_fails_the_proof(data: bytes) -> None:
    for side in handshakes():
        with pytest.raises(ProofFailed):
            side.receive(data)


@given(
    st.sampled_from(list(FrameType)),
    st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=16),
    st.sampled_from(list(RouteType)),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
)
def test_a_frame_reads_back_as_it_was_signed(  # noqa: PLR0917 - hypothesis draws one a field
    kind: FrameType, plugin: str, route: RouteType, started: int, nonce_i: bytes, nonce_r: bytes
) -> None:
    frame = Frame(kind, plugin, route, CONNECTION_ID, ATTEMPT_ID, started, ALICE.public.key, nonce_i, nonce_r)
    data = frame.sign(ALICE, BOB.public)
    read = Frame.parse(data)
    assert len(data) == FRAME_BYTES
    assert replace(read, signature=frame.signature) == frame
    assert read.verify(ALICE.public, BOB.public)
    assert not read.verify(ALICE.public, MALLORY.public)
    assert not read.verify(BOB.public, BOB.public)


def base(**changes: object) -> Frame:
    frame = Frame(
        FrameType.HELLO, COMBO.plugin, COMBO.route, CONNECTION_ID, ATTEMPT_ID, STARTED_AT_US, ALICE.public.key
    )
    return replace(frame, initiator_nonce=b"i" * 16, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frame", "signer", "recipient", "says"),
    [
        (base(connection_id="c1" * 16), ALICE, BOB, "another attempt"),
        (base(attempt_id="a1" * 16), ALICE, BOB, "another attempt"),
        (base(), ALICE, MALLORY, "not signed by alice"),
        (base(sender=MALLORY.public.key), MALLORY, BOB, "not signed by alice"),
        (base(), MALLORY, BOB, "not signed by alice"),
        (base(sender=BOB.public.key), BOB, ALICE, "not signed by alice"),
    ],
    ids=["connection", "attempt", "recipient", "stranger", "stranger in the name of alice", "its own, reflected"],
)
def test_a_frame_that_is_not_of_this_peer_and_attempt_fails(
    frame: Frame, signer: Identity, recipient: Identity, says: str
) -> None:
    _, responder = handshakes()
    with pytest.raises(ProofFailed, match=says):
        responder.receive(frame.sign(signer, recipient.public))


def run_until_proved(nonces: bytes) -> tuple[Handshake, Handshake]:
    initiator, responder = handshakes(nonces=nonces)
    initiator.receive(responder.receive(initiator.opener()).reply or b"")
    return initiator, responder


@pytest.mark.parametrize("frame", [FrameType.TAKE, FrameType.HELLO])
def test_the_responder_takes_nothing_of_an_older_run(frame: FrameType) -> None:
    _, responder = run_until_proved(nonces=b"IR")
    with pytest.raises(ProofFailed, match="earlier"):
        responder.receive(FRAMES[frame])


@pytest.mark.parametrize("frame", [FrameType.PROOF, FrameType.AGREED])
def test_the_initiator_takes_nothing_of_an_older_run(frame: FrameType) -> None:
    initiator, _ = run_until_proved(nonces=b"IR")
    with pytest.raises(ProofFailed, match="earlier"):
        initiator.receive(FRAMES[frame])


def test_a_replayed_greeting_does_not_become_a_taken_pipe() -> None:
    _, responder = handshakes(nonces=b"IR")
    responder.receive(FRAMES[FrameType.HELLO])
    with pytest.raises(ProofFailed):
        responder.receive(FRAMES[FrameType.TAKE])


@given(st.randoms(use_true_random=False), st.integers(0, 80))
def test_whatever_is_lost_repeated_or_reordered_both_ends_that_end_agree(rng: random.Random, steps: int) -> None:
    initiator, responder = handshakes()
    sides = (initiator, responder)
    to: tuple[list[bytes], list[bytes]] = ([responder.opener()], [initiator.opener()])
    events: tuple[set[Event], set[Event]] = (set(), set())
    for _ in range(steps):
        side = rng.randrange(2)
        if Event.PROVED in events[0] and rng.random() < 0.3:
            to[1].append(initiator.take())
        if not to[side]:
            continue
        index = rng.randrange(len(to[side]))  # reordered; and kept, which repeats it, or taken out
        frame = to[side][index] if rng.random() < 0.4 else to[side].pop(index)
        if rng.random() < 0.3:
            continue
        received = sides[side].receive(frame)
        events[side].add(received.event)
        if received.reply:
            to[1 - side].append(received.reply)
        assert Event.AGREED not in events[0] or Event.TAKEN in events[1], "agreed on what was never taken"
        assert Event.TAKEN not in events[1] or Event.PROVED in events[0], "taken without proof"


@given(st.integers(0, 3), st.integers(0, 3))
def test_once_frames_get_through_both_ends_agree(lost_hellos: int, lost_takes: int) -> None:
    initiator, responder = handshakes()
    for _ in range(lost_hellos):
        responder.receive(initiator.opener())
    assert initiator.receive(responder.receive(initiator.opener()).reply or b"").event is Event.PROVED
    for _ in range(lost_takes):
        assert responder.receive(initiator.take()).event is Event.TAKEN
    assert initiator.receive(responder.receive(initiator.take()).reply or b"").event is Event.AGREED


def test_a_move_says_whose_pipe_it_is_and_an_answer_which_challenge() -> None:
    initiator, responder = run_until_proved(nonces=b"ir")
    moved, checked = responder.receive(initiator.move("turn")), initiator.receive(FRAMES[FrameType.CHECKED])
    assert moved.frame is not None
    assert moved.frame.plugin == "turn"
    assert checked.frame is not None
    assert checked.frame.initiator_nonce == CHALLENGE
    assert initiator.receive(moved.reply or b"").event is Event.AGREED


def test_no_secret_shows_in_a_repr() -> None:
    initiator, _ = handshakes()
    assert ALICE.seed.hex() not in repr(initiator)
    assert str(ALICE.seed) not in repr(vars(initiator))
