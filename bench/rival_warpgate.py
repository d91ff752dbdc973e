"""The original warpgate, with its defaults. Runs in an environment of warpgate's own.

What differs from its defaults: the servers that ship with it are replaced by the laboratory's, and its name server,
which is on the internet alone, is left out: peers get each other's addresses beforehand, at no cost in time. The NAT is
classified before the address is taken.
"""

import asyncio
import hashlib
import ipaddress
import os
from contextlib import AsyncExitStack
from typing import Any

from bench.host import Host, main
from bench.link import Answers, Link

_SCORE = 1.0  # servers below 0.8 are left out
_NAT_TESTS = (
    5  # servers that it asks about its NAT: it wants a quorum, which the laboratory's pair gives it by repeating
)
_LAB_INTERNET = ("198.18.0.0/15", "203.0.113.0/24")  # set apart for tests: Python calls them private


class WarpgateLink(Link):
    """A `warpgate.Link` of the initiator's."""

    def __init__(self, link: Any) -> None:
        from aionetiface import TCP  # noqa: PLC0415

        self._link = link
        self.how = str(link.winner_plugin)
        self.relayed = self.how == "turn"
        self.stream = getattr(link.pipe, "proto", None) == TCP

    async def send(self, data: bytes) -> None:
        await self._link.send(data)

    async def receive(self) -> bytes:
        return await self._link.recv() or b""

    async def close(self) -> None:
        await self._link.__aexit__(None, None, None)


class Warpgate(Host):
    """One gate, which is listening."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        os.environ["HOME"] = self.settings["folder"]  # it keeps keys and caches there
        self._life = AsyncExitStack()
        self._peers: dict[str, str] = {}
        self._gate: Any
        self._listening: asyncio.Task[None]

    async def open(self) -> str:
        _use_servers(self.settings)
        from warpgate import Gate  # noqa: PLC0415 - reads the servers as it is imported
        from warpgate.node import node_start  # noqa: PLC0415
        from warpgate.node.node_defs import NODE_CONF  # noqa: PLC0415

        node_start.load_machine_id = self._machine_id
        asks_time = self.settings["turn_transport"] == "udp"  # where UDP is blocked it does not start without NTP
        changes = {"enable_nickname": False, "init_clock_skew": asks_time}
        self._gate = Gate(self.name, conf=NODE_CONF | changes)
        await self._life.enter_async_context(self._gate)
        await self._gate.node.nat_classify_task
        self._listening = asyncio.create_task(self._listen())
        return str(self._gate.node.address().decode())

    async def meet(self, peers: dict[str, Any]) -> None:
        self._peers = peers

    async def connect(self, peer: str, by: str | None) -> Link:
        link = await self._gate.connect(self._peers[peer].encode())
        if link is None:
            raise ConnectionError("auto_connect ended without a pipe")
        return WarpgateLink(link)

    async def _machine_id(self, *_: Any) -> str:
        """Hosts of the laboratory are on one machine, and are to pass for several."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    async def _listen(self) -> None:
        answers: dict[Any, Answers] = {}

        async def answer(link: Any, message: bytes) -> None:
            reply = answers.setdefault(link, Answers()).take(bytes(message), asyncio.get_running_loop().time())
            if reply:
                await link.send(reply)

        await self._gate.listen(answer)


def _use_servers(settings: dict[str, Any]) -> None:
    """Put the laboratory's servers in the place of those that ship, in the table that every part of it reads; and let
    the laboratory's internet be one: warpgate does not start where its external address is private."""
    constants: Any = vars(ipaddress)["_IPv4Constants"]
    constants._private_networks = [net for net in constants._private_networks if str(net) not in _LAB_INTERNET]
    from aionetiface.servers import INFRA  # noqa: PLC0415

    turn = settings["turn"]["udp"]
    stun = [tuple(server) for server in settings["stun_servers"]]
    alternate = [(ip, port + 1) for ip, port in stun]  # RFC 5780: coturn's second port
    nat_test = [_server(*address) for pair in zip(stun, alternate, strict=True) for address in pair]
    first, second, third, fourth = settings["broker"][0].split(".")
    # Fewer than two brokers it does not use at all: the same one twice, under another spelling of its address.
    broker_again = (f"{first}.{second}.{int(third) * 256 + int(fourth)}", settings["broker"][1])
    relay = _server(turn["ip"], turn["port"]) | {"user": turn["username"], "password": turn["password"]}
    tables = {
        "STUN(see_ip)": {"UDP": [[_server(*address)] for address in stun], "TCP": [[_server(*a)] for a in stun]},
        "STUN(test_nat)": {"UDP": [nat_test] * _NAT_TESTS, "TCP": []},
        "MQTT": {"UDP": [[_server(*settings["broker"])], [_server(*broker_again)]], "TCP": []},
        "TURN": {"UDP": [[relay]], "TCP": []},
        "NTP": {"UDP": [[_server(*settings["ntp"])]], "TCP": []},
    }
    for name, servers in tables.items():
        INFRA[name]["IPv4"].update(servers)
        INFRA[name]["IPv6"].update({"UDP": [], "TCP": []})


def _server(ip: str, port: int) -> dict[str, Any]:
    return {"ip": ip, "port": port, "af": 2, "proto": 2, "fqns": [], "score": _SCORE, "user": None, "password": None}


if __name__ == "__main__":
    main(Warpgate)
