"""The servers of a laboratory's internet: their configuration, their start, and the proof that they answer."""

import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from warpfleet.core.errors import MissingError
from warpfleet.lab import netns, processes
from warpfleet.lab.processes import Owned

SERVERS_V4 = BROKER, TURN_ONE, TURN_TWO, TIME = "203.0.113.10", "203.0.113.20", "203.0.113.21", "203.0.113.30"
V6 = {
    BROKER: "2001:db8:ffff::10",
    TURN_ONE: "2001:db8:ffff::20",
    TURN_TWO: "2001:db8:ffff::21",
    TIME: "2001:db8:ffff::30",
}
# 443 beside the registered port: networks that block the rest let it out.
MQTT_PORTS = (1883, 443)
STUN_PORT, NTP_PORT = 3478, 123
_READY_DEADLINE_S = 15.0
_ANSWER_TIMEOUT_S = 0.2
_RETRY_S = 0.02  # between tries that are refused at once
# What a relay must not be talked into reaching: itself, and everything that is no part of the laboratory's internet.
_DENIED_PEERS = (
    "0.0.0.0-0.255.255.255", "10.0.0.0-10.255.255.255", "100.64.0.0-100.127.255.255", "127.0.0.0-127.255.255.255",
    "169.254.0.0-169.254.255.255", "172.16.0.0-172.31.255.255", "192.168.0.0-192.168.255.255",
    "224.0.0.0-255.255.255.255", "::1", "::ffff:0:0-::ffff:ffff:ffff", "fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """One server: its namespace, the addresses that it has there, its command, and the questions that it answers once
    it is ready."""

    role: str
    namespace: str
    hosts: list[str]
    command: list[str]
    questions: list[Callable[[], bool]]


def configure(folder: Path, *, core: str, broker: str, dual_stack: bool) -> tuple[list[Server], dict[str, object]]:
    """Write the servers' configuration below `folder`; the servers, and the `services` of the fleet file. `core` and
    `broker` are namespaces: where the MQTT broker stands, and all others."""
    secret = secrets.token_hex(16)
    both = [lambda ip: ip, V6.__getitem__] if dual_stack else [lambda ip: ip]
    servers = [
        _mosquitto(folder, broker, [each(BROKER) for each in both]),
        _coturn(folder, core, [each(ip) for each in both for ip in (TURN_ONE, TURN_TWO)], secret),
        _chrony(folder, core, [each(TIME) for each in both]),
    ]
    hosts = {ip: [_bracketed(each(ip)) for each in both] for ip in V6}
    services: dict[str, object] = {
        "mqtt": [f"mqtt://{host}:{port}" for port in MQTT_PORTS for host in hosts[BROKER]],
        "stun": [f"{host}:{STUN_PORT}" for each in both for host in map(_bracketed, map(each, (TURN_ONE, TURN_TWO)))],
        "turn": [
            {"url": f"turn:{host}:{STUN_PORT}?transport={transport}", "secret": secret}
            for host in hosts[TURN_ONE]
            for transport in ("udp", "tcp")
        ],
        "ntp": [each(TIME) for each in both],
    }
    return servers, services


def start(servers: list[Server], folder: Path) -> list[Owned]:
    """Start servers, each with its addresses in its namespace; returns at once."""
    return [_start(server, folder) for server in servers]


def _start(server: Server, folder: Path) -> Owned:
    with netns.inside(server.namespace):
        netns.batch(netns.add_address(f"{host}/{128 if ':' in host else 32}", "lo") for host in server.hosts)
        return processes.start(server.role, server.command, folder / f"{server.role}.log")


def await_answers(servers: list[Server], running: list[Owned], folder: Path) -> None:
    """Ask every server until it answers, in its own namespace. MissingError where one does not."""
    deadline_s = time.monotonic() + _READY_DEADLINE_S
    for server, process in zip(servers, running, strict=True):
        with netns.inside(server.namespace):
            _await_answers(server, process, folder / f"{server.role}.log", deadline_s)


def _await_answers(server: Server, process: Owned, log: Path, deadline_s: float) -> None:
    for question in server.questions:
        while not question():
            if not process.alive:
                raise MissingError(f"{server.role} ended at once: {_last_line(log)}")
            if time.monotonic() > deadline_s:
                raise MissingError(f"{server.role} does not answer after {_READY_DEADLINE_S:.0f} s: {_last_line(log)}")


def private_file(path: Path, text: str) -> Path:
    """Write a file that only its owner can read, from its first moment on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return path


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _mosquitto(folder: Path, namespace: str, hosts: list[str]) -> Server:
    lines = ["user root", "allow_anonymous true", "set_tcp_nodelay true", "persistence false", "max_queued_messages 0"]
    lines += [f"listener {port} {host}" for port in MQTT_PORTS for host in hosts]
    config = private_file(folder / "mosquitto.conf", "\n".join(lines) + "\n")
    questions = [_mqtt_question(host, port) for port in MQTT_PORTS for host in hosts]
    return Server("mosquitto", namespace, hosts, ["mosquitto", "-c", str(config)], questions)


def _coturn(folder: Path, namespace: str, hosts: list[str], secret: str) -> Server:
    lines = [f"listening-ip={host}" for host in hosts] + [f"relay-ip={host}" for host in hosts]
    lines += [f"listening-port={STUN_PORT}", "realm=warpfleet", "use-auth-secret", f"static-auth-secret={secret}"]
    lines += ["fingerprint", "no-tls", "no-dtls", "no-cli", "no-multicast-peers", "keep-address-family", "simple-log"]
    lines += [f"log-file={folder / 'coturn.log'}", f"pidfile={folder / 'coturn.pid'}", f"userdb={folder / 'coturn.db'}"]
    lines += [f"denied-peer-ip={peers}" for peers in _DENIED_PEERS]
    config = private_file(folder / "turnserver.conf", "\n".join(lines) + "\n")
    return Server(
        "coturn", namespace, hosts, ["turnserver", "-c", str(config)], [_stun_question(host) for host in hosts]
    )


def _chrony(folder: Path, namespace: str, hosts: list[str]) -> Server:
    lines = ["local stratum 8", "allow all", "cmdport 0", "bindcmdaddress /", f"pidfile {folder / 'chronyd.pid'}"]
    lines += [f"bindaddress {host}" for host in hosts]
    config = private_file(folder / "chrony.conf", "\n".join(lines) + "\n")
    command = ["chronyd", "-x", "-d", "-u", "root", "-f", str(config)]  # -x: it never touches the machine's clock
    return Server("chronyd", namespace, hosts, command, [_ntp_question(host) for host in hosts])


def ask(kind: socket.SocketKind, host: str, port: int, request: bytes) -> bytes:
    """What a server answers to one request; nothing where it is silent or refuses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as asking:
        asking.settimeout(_ANSWER_TIMEOUT_S)
        try:
            asking.connect((host, port))
            asking.sendall(request)
            return asking.recv(2048)
        except TimeoutError:
            return b""
        except OSError:
            time.sleep(_RETRY_S)
            return b""


def _mqtt_question(host: str, port: int) -> Callable[[], bool]:
    connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x0a\x00\x02up"  # MQTT 3.1.1 section 3.1: clean session, client "up"
    return lambda: ask(socket.SOCK_STREAM, host, port, connect)[:1] == b"\x20"


def _stun_question(host: str) -> Callable[[], bool]:
    binding = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, secrets.token_bytes(12))  # RFC 8489 section 5
    return lambda: ask(socket.SOCK_DGRAM, host, STUN_PORT, binding)[:2] == b"\x01\x01"


def _ntp_question(host: str) -> Callable[[], bool]:
    request = b"\x23" + bytes(47)  # RFC 5905 section 7.3: version 4, mode 3 (client)
    return lambda: (ask(socket.SOCK_DGRAM, host, NTP_PORT, request)[:1] or b"\0")[0] & 7 == 4
