"""The messages of the techniques: what a peer names is refused where it is no endpoint, or too many."""

import pytest
from pydantic import ValidationError

from fake_node import HEAD
from warpfleet.net.handshake import FRAME_BYTES
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.reverse_connect.messages import DialMe
from warpfleet.plugins.turn.messages import RelayAnswer, RelayOffer
from warpfleet.plugins.udp_punch.messages import Answer, Offer


@pytest.mark.parametrize("text", ["", "203.0.113.1", "203.0.113.1:0", "203.0.113.1:65536", "host:80", "1.2.3.4:x"])
def test_an_endpoint_that_is_none_is_refused_when_the_message_is_read(text: str) -> None:
    makers: list[tuple[type[AttemptMessage], dict[str, object]]] = [
        (Offer, {"candidates": (text,)}),
        (Answer, {"candidates": (text,)}),
        (DialMe, {"endpoints": (text,)}),
        (RelayOffer, {"relayed": text, "hello": "00" * FRAME_BYTES}),
        (RelayAnswer, {"endpoint": text}),
    ]
    for kind, fields in makers:
        with pytest.raises(ValidationError):
            kind.model_validate(HEAD | fields)


@pytest.mark.parametrize(("kind", "name"), [(Offer, "candidates"), (Answer, "candidates"), (DialMe, "endpoints")])
def test_more_endpoints_than_a_peer_has_are_refused(kind: type[AttemptMessage], name: str) -> None:
    texts = [f"203.0.113.1:{port}" for port in range(1, 10)]
    kind.model_validate(HEAD | {name: texts[:8]})
    with pytest.raises(ValidationError):
        kind.model_validate(HEAD | {name: texts})
