"""The fleet file."""

import pickle
from pathlib import Path

import pytest

from warpfleet.configs.fleet import Fleet, Vantage
from warpfleet.configs.loader import load
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint
from warpfleet.core.errors import InputError
from warpfleet.core.forward import Permission

_PASSWORD = "geh/eim"
_EXAMPLE = """
version: 1
name: seven-nats
services:
  mqtt: ["mqtt://u:geh%2Feim@203.0.113.10:1883", "mqtts://[2001:db8::10]"]
  stun: ["203.0.113.20:3478", "203.0.113.21:3478"]
  turn:
    - {url: "turn:203.0.113.20:3478?transport=udp", username: u, password: geh/eim}
    - {url: "turn:203.0.113.20?transport=tcp", username: u, password: geh/eim}
    - {url: "turns:[2001:db8::20]", secret: geh/eim}
  ntp: ["203.0.113.30", "2001:db8::30", "ntp.example.net:1123"]
nodes:
  - name: alice
    vantage: {netns: alice}
    host: worker-1
    listen: [443, 0]
  - name: bob
"""


def _load(tmp_path: Path, text: str) -> Fleet:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return load(path, Fleet)


def test_the_example_of_the_contract(tmp_path: Path) -> None:
    fleet = _load(tmp_path, _EXAMPLE)
    services = fleet.services
    assert [(one.host, one.port, one.tls) for one in services.mqtt] == [
        ("203.0.113.10", 1883, False),
        ("2001:db8::10", 8883, True),
    ]
    assert services.mqtt[0].password
    assert services.mqtt[0].password.get_secret_value() == _PASSWORD
    assert services.stun == (Endpoint("203.0.113.20", 3478), Endpoint("203.0.113.21", 3478))
    assert [(one.host, one.port, one.transport, one.tls) for one in services.turn] == [
        ("203.0.113.20", 3478, Transport.UDP, False),
        ("203.0.113.20", 3478, Transport.TCP, False),
        ("2001:db8::20", 5349, Transport.TCP, True),
    ]
    assert [(one.host, one.port) for one in services.ntp] == [
        ("203.0.113.30", 123),
        ("2001:db8::30", 123),
        ("ntp.example.net", 1123),
    ]
    alice, bob = fleet.nodes
    assert (alice.vantage, alice.host, alice.listen) == (Vantage(netns="alice"), "worker-1", (443, 0))
    assert (bob.vantage, bob.host, bob.listen) == (None, None, (0,))


def test_it_goes_to_another_process_whole(tmp_path: Path) -> None:
    fleet = _load(tmp_path, _EXAMPLE)
    assert pickle.loads(pickle.dumps(fleet)) == fleet


def test_secrets_are_masked_wherever_it_is_shown(tmp_path: Path) -> None:
    fleet = _load(tmp_path, _EXAMPLE)
    shown = f"{fleet} {fleet!r} {fleet.redacted()} {fleet.model_dump_json()} {fleet.services.mqtt[0]}"
    assert "geh" not in shown
    assert fleet.redacted()["services"]["mqtt"][0] == "mqtt://u:***@203.0.113.10:1883"


def test_services_may_be_left_out(tmp_path: Path) -> None:
    fleet = _load(tmp_path, "version: 1\nname: x\nnodes: [{name: a}]\n")
    assert (fleet.services.mqtt, fleet.services.turn) == ((), ())


def test_peers_may_have_dialled_what_is_named_and_nothing_unless_something_is(tmp_path: Path) -> None:
    text = "version: 1\nname: x\nnodes: [{name: a, forward: ['127.0.0.1:22', '[fd00::1]:*']}, {name: b}]\n"
    fleet = _load(tmp_path, text)
    a, b = fleet.nodes
    assert a.forward == (Permission("127.0.0.1", 22), Permission("fd00::1", None))
    assert b.forward == ()
    assert fleet.redacted()["nodes"][0]["forward"] == ["127.0.0.1:22", "[fd00::1]:*"]
    assert pickle.loads(pickle.dumps(fleet)) == fleet


def test_external_addresses_belong_to_the_internet_unless_a_realm_is_named(tmp_path: Path) -> None:
    nodes = "nodes: [{name: a}]\n"
    assert _load(tmp_path, f"version: 1\nname: x\n{nodes}").realm == "internet"
    assert _load(tmp_path, f"version: 1\nname: x\nrealm: lab-1\n{nodes}").realm == "lab-1"
    with pytest.raises(InputError, match="realm: use 1 to 64 letters"):
        _load(tmp_path, f"version: 1\nname: x\nrealm: a b\n{nodes}")


def test_a_node_by_name(tmp_path: Path) -> None:
    fleet = _load(tmp_path, _EXAMPLE)
    assert fleet.node("bob").name == "bob"
    with pytest.raises(InputError, match=r"has no node 'alcie'; did you mean 'alice'\?"):
        fleet.node("alcie")


_NODES = {
    "{name: a},\n {name: a}": ":4: nodes[1].name: the name 'a' is already that of nodes[0]",
    "{name: 'a:b'}": "nodes[0].name: use 1 to 64 letters",
    "{name: a, vantage: {}}": "nodes[0].vantage: give one of 'netns'",
    "{name: a, vantage: {netns: a, interface: eth0}}": "nodes[0].vantage: has 'netns' and 'interface'; keep one",
    "{name: a, vantage: {netns: ../a}}": "nodes[0].vantage.netns: use 1 to 64 letters",
    "{name: a, vantage: {interface: a-name-far-too-long}}": "nodes[0].vantage.interface: an interface name has",
    "{name: a, vantage: {address: 0.0.0.0}}": "nodes[0].vantage.address: nothing can be sent from",
    "{name: a, vantage: {address: here}}": "nodes[0].vantage.address: not an IP address",
    "{name: a, vantag: {}}": "unknown key 'vantag' in nodes[0]; did you mean 'vantage'?",
    "{name: a, listen: [70000]}": "nodes[0].listen[0]: should be less than or equal to 65535",
    "{name: a, listen: [yes]}": "nodes[0].listen[0]: should be a valid integer",
    "{name: a, listen: 443}": "nodes[0].listen: should be a list",
    "{name: a, forward: [22]}": "nodes[0].forward[0]: should be a string",
    "{name: a, forward: ['*:22']}": "nodes[0].forward[0]: the host is neither",
    "{name: a, forward: ['0.0.0.0:22']}": "nodes[0].forward[0]: no host has this address",
    "{name: a, forward: ['127.0.0.1']}": "nodes[0].forward[0]: write it like 127.0.0.1:22",
    "{name: a, listen: [443, 443]}": "nodes[0].listen[1]: port 443 is listed twice",
    "": "nodes: the list is empty",
}


@pytest.mark.parametrize(("nodes", "message"), _NODES.items())
def test_a_wrong_node(tmp_path: Path, nodes: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        _load(tmp_path, f"version: 1\nname: x\nnodes: [{nodes}]\n")
    assert message in str(caught.value)
    assert "more)" not in str(caught.value)


_SERVICES = {
    "mqtt: ['http://u:geheim@h']": "services.mqtt[0]: write mqtt://",
    "mqtt: ['mqtt://u:ge/heim@h']": "services.mqtt[0]: write mqtt://",
    "mqtt: ['mqtt://u:geheim@h:99999']": "services.mqtt[0]: the port must be",
    "mqtt: ['mqtt://u:x@h:geheim']": "services.mqtt[0]: write it like",
    "mqtt: ['mqtt://']": "services.mqtt[0]: write it like",
    "mqtt: [3]": "services.mqtt[0]: should be a string",
    "mqtt: 'mqtt://u:geheim@h'": "services.mqtt: should be a list",
    "stun: ['stun.example.net:3478']": "services.stun[0]: needs an IP address",
    "stun: ['192.0.2.1']": "services.stun[0]: write it like",
    "stun: ['192.0.2:3478']": "services.stun[0]: the host is neither",
    "turn: [{url: 'turn:h', username: u}]": "services.turn[0]: give either 'password'",
    "turn: [{url: 'turn:h', password: geheim}]": "services.turn[0]: 'password' needs a 'username'",
    "turn: [{url: 'turn:h', username: u, password: geheim, secret: x}]": "services.turn[0]: give either",
    "turn: [{url: 'turn://u:geheim@h', secret: x}]": "services.turn[0].url: write it like turn:",
    "turn: [{url: 'turn:h?transport=sctp', secret: x}]": "services.turn[0].url: after '?' only",
    "turn: [{url: 'turns:h?transport=udp', secret: x}]": "services.turn[0].url: TURN over DTLS",
    "turn: [{url: 'turn:h', pasword: geheim}]": "unknown key 'pasword' in services.turn[0]; did you mean 'password'?",
    "ntp: ['']": "services.ntp[0]: write it like",
}


@pytest.mark.parametrize(("services", "message"), _SERVICES.items())
def test_a_wrong_service_is_named_and_its_secret_is_not(tmp_path: Path, services: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        _load(tmp_path, f"version: 1\nname: x\nservices: {{{services}}}\nnodes: [{{name: a}}]\n")
    assert message in str(caught.value)
    assert ":3: " in str(caught.value)
    assert "heim" not in str(caught.value)
