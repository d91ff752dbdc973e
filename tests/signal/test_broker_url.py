"""Brokers' URLs."""

import pytest

from warpfleet.core.errors import InputError
from warpfleet.signal.broker_url import BrokerUrl


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mqtt://192.0.2.1", BrokerUrl("192.0.2.1", 1883)),
        ("mqtts://broker.example/", BrokerUrl("broker.example", 8883, tls=True)),
        ("mqtt://[2001:db8::1]:1884", BrokerUrl("2001:db8::1", 1884)),
        ("mqtt://u%40x:p%3A%2F@h:1", BrokerUrl("h", 1, username="u@x", password="p:/")),
        ("mqtt://user@h", BrokerUrl("h", 1883, username="user")),
    ],
)
def test_good_urls(text: str, url: BrokerUrl) -> None:
    assert BrokerUrl.parse(text) == url


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1:1883", "http://h", "mqtt://", "mqtt://h:x", "mqtt://h:99999", "mqtt://h/t"]
)
def test_wrong_urls_name_the_key_and_the_form(text: str) -> None:
    with pytest.raises(InputError, match=r"services\.mqtt: .*(mqtt://HOST:PORT|more than)"):
        BrokerUrl.parse(text)


@pytest.mark.parametrize("text", ["mqtt://user:hidden@h:1883", "mqtt://user:hidden@h:x", "mqtt://user:hidden@h/t"])
def test_the_password_never_shows(text: str) -> None:
    try:
        url = BrokerUrl.parse(text)
        shown = f"{url} {url!r}"
    except InputError as error:
        shown = str(error)
    assert "hidden" not in shown
