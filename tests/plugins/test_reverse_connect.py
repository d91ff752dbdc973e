"""The peer dials back, to a listener that it was told of."""

import pytest
from meeting import Meeting, carries_then_closes, reason_of, two

from fake_network import DELAY_S, Internet
from fake_node import HEAD, view
from virtual_time import now_s, virtual_time
from warpfleet.core.combo import Reason
from warpfleet.core.endpoint import Endpoint
from warpfleet.plugins.attempt_failed import AttemptFailed
from warpfleet.plugins.direct_connect import DirectConnect
from warpfleet.plugins.reverse_connect import ReverseConnect
from warpfleet.plugins.reverse_connect.messages import DialMe


@virtual_time
async def test_the_peer_dials_back() -> None:
    internet = Internet()
    alice, bob = two(internet)
    await DirectConnect.setup(alice)
    mine, theirs = await Meeting(ReverseConnect, alice, bob).pipes()
    assert theirs.path.remote == Endpoint("203.0.113.1", 443)
    assert now_s() == pytest.approx(7 * DELAY_S), "signal, connect, knock, greeting, proof, take"
    await carries_then_closes(mine, theirs)
    await alice.close()


@virtual_time
@pytest.mark.parametrize("target", ["127.0.0.1:22", "10.0.0.1:80", "192.168.1.1:80", "[::1]:22", "169.254.169.254:80"])
async def test_a_peer_cannot_make_us_dial_where_the_route_does_not_lead(target: str) -> None:
    alice, bob = two(Internet())
    meeting = Meeting(ReverseConnect, alice, bob)
    meeting.b.opening = DialMe(**HEAD, endpoints=(target,))
    with pytest.raises(AttemptFailed) as failed:
        await ReverseConnect(meeting.b).run()
    assert reason_of(failed) is Reason.TARGET_FORBIDDEN
    assert bob.network.dialled == []


@virtual_time
async def test_who_does_not_listen_does_not_ask() -> None:
    alice, bob = two(Internet())
    alice.view = view("alice", "203.0.113.1", ports=())
    meeting = Meeting(ReverseConnect, alice, bob)
    with pytest.raises(AttemptFailed) as failed:
        await ReverseConnect(meeting.a).run()
    assert reason_of(failed) is Reason.NOT_LISTENING
