"""What a caller got wrong and what is not there, as a node says it."""

import socket
from typing import Any

import pytest
from loopback_nodes import HOME, NEEDS_BROKER, Cast, opened

from process_sockets import free_port
from warpfleet.actors import signal_host
from warpfleet.actors.node import Node
from warpfleet.core.errors import InputError, MissingError

pytestmark = [NEEDS_BROKER, pytest.mark.usefixtures("nothing_is_left")]


async def test_what_the_caller_got_wrong_is_said(broker: str, cast: Cast) -> None:
    async with opened(broker, cast.alice, cast.bob) as (alice, _):
        with pytest.raises(InputError, match="knows no peer 'bbo'; did you mean 'bob'"):
            await alice.connect("bbo")
        with pytest.raises(InputError, match="there is no plugin 'teleport'"):
            await alice.connect("bob", plugin_name="teleport")
        with pytest.raises(InputError, match="carries no pipe"):
            await alice.connect("bob", plugin_name="get_addr")
        with pytest.raises(InputError, match="4 or 6"):
            await alice.connect("bob", af=5)
        with pytest.raises(InputError, match="own peer"):
            await alice.trust(alice.public)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mqtt": ["http://127.0.0.1"]}, "mqtt"),
        ({"mqtt": []}, "mqtt names no broker"),
        ({"mqtt": ["mqtt://127.0.0.1"], "stun": ["stun.example.net"]}, "stun"),
        ({"mqtt": ["mqtt://127.0.0.1"], "listen": [70000]}, "listen"),
    ],
)
async def test_wrong_arguments_of_open_are_named(options: dict[str, Any], message: str, cast: Cast) -> None:
    with pytest.raises(InputError, match=message):
        async with Node.open(cast.alice, **options):
            pass


async def test_no_broker_is_a_missing_service(monkeypatch: pytest.MonkeyPatch, cast: Cast) -> None:
    monkeypatch.setattr(signal_host, "_CONNECT_S", 0.2)
    with pytest.raises(MissingError, match="no MQTT broker answered"):
        async with Node.open(cast.alice, mqtt=[f"mqtt://127.0.0.1:{free_port()}"], vantage=HOME):
            pass


async def test_a_taken_port_is_a_missing_thing(broker: str, cast: Cast) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MissingError, match=f"cannot listen on TCP port {port}"):
            async with Node.open(cast.alice, mqtt=[broker], vantage=HOME, listen=[port]):
                pass
