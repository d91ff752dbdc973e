"""UPnP gateways that are slow, lie, or send nonsense: every talk ends in time, with one of two errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from warpfleet.net.portmap.gateway import Gateway
from warpfleet.net.portmap.mapping import GatewaySilent, MappingRefused
from warpfleet.net.portmap.upnp import UpnpMapper
from warpfleet.net.vantage import Vantage

HOME, ELSEWHERE = "127.0.0.1", "127.0.0.2"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

DESCRIPTION = """<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<SCPDURL>{base}/scpd.xml</SCPDURL><controlURL>{base}/control</controlURL><eventSubURL>/events</eventSubURL>
</service></serviceList></device></root>"""
ACTIONS = {
    "AddPortMapping": (
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ),
    "GetExternalIPAddress": (),
}
KINDS = {"NewExternalPort": "ui2", "NewInternalPort": "ui2", "NewEnabled": "boolean", "NewLeaseDuration": "ui4"}


def scpd() -> str:
    """The description of the service."""

    def argument(name: str, way: str) -> str:
        return (
            f"<argument><name>{name}</name><direction>{way}</direction>"
            f"<relatedStateVariable>{name}</relatedStateVariable></argument>"
        )

    names = [*ACTIONS["AddPortMapping"], "NewExternalIPAddress"]
    actions = {name: [argument(each, "in") for each in arguments] for name, arguments in ACTIONS.items()}
    actions["GetExternalIPAddress"] = [argument("NewExternalIPAddress", "out")]
    return (
        '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><actionList>'
        + "".join(
            f"<action><name>{name}</name><argumentList>{''.join(arguments)}</argumentList></action>"
            for name, arguments in actions.items()
        )
        + "</actionList><serviceStateTable>"
        + "".join(
            f"<stateVariable sendEvents='no'><name>{name}</name>"
            f"<dataType>{KINDS.get(name, 'string')}</dataType></stateVariable>"
            for name in names
        )
        + "</serviceStateTable></scpd>"
    )


def soap(body: str) -> str:
    return f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{body}</s:Body></s:Envelope>'


def fault(code: int) -> str:
    detail = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode></UPnPError>'
    return soap(f"<s:Fault><faultcode>s:Client</faultcode><detail>{detail}</detail></s:Fault>")


def answer(action: str, body: str = "") -> str:
    return soap(
        f'<u:{action}Response xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{body}</u:{action}Response>'
    )


class Igd:
    """A gateway's web server: `documents` by path, and for actions `answers`, one after another."""

    def __init__(self, *answers: str, base: str = "") -> None:
        self.documents = {"/root.xml": DESCRIPTION.format(base=base), "/scpd.xml": scpd()}
        self.answers = list(answers)
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")]
        body = (await reader.readexactly(int(lengths[0]) if lengths else 0)).decode()
        path = head.split()[1]
        self.asked.append(body or path)
        text = self.answers.pop(0) if path == "/control" else self.documents.get(path, "")
        status = "500 Error" if "Fault" in text else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def gateway(handler: Handler, *, path: str = "/root.xml") -> AsyncIterator[UpnpMapper]:
    """A mapper that has found this gateway."""
    server = await asyncio.start_server(handler, HOME, 0)
    port = server.sockets[0].getsockname()[1]
    mapper = UpnpMapper(Vantage(address=HOME), Gateway(HOME, "lo"), lambda first, _last: first)
    mapper.found_at(f"http://{HOME}:{port}{path}")
    try:
        yield mapper
    finally:
        server.close()


IP = answer("GetExternalIPAddress", "<NewExternalIPAddress>203.0.113.7</NewExternalIPAddress>")
ADDED = answer("AddPortMapping")


async def test_a_port_is_mapped_at_the_address_that_the_gateway_names() -> None:
    igd = Igd(IP, ADDED)
    async with gateway(igd.serve) as mapper:
        granted = await mapper.map(4444, suggested=5555, lifetime_s=600)
    assert str(granted.external) == "203.0.113.7:5555"
    assert "<NewRemoteHost></NewRemoteHost>" in igd.asked[3]
    assert "<NewInternalClient>127.0.0.1</NewInternalClient>" in igd.asked[3]
    assert "<NewLeaseDuration>600</NewLeaseDuration>" in igd.asked[3]


async def test_a_port_of_others_is_left_to_them() -> None:
    async with gateway(Igd(IP, fault(718), ADDED).serve) as mapper:
        assert (await mapper.map(4444, suggested=5555, lifetime_s=600)).external.port == 1024


async def test_a_gateway_that_grants_for_ever_alone_is_asked_for_that() -> None:
    igd = Igd(IP, fault(725), ADDED)
    async with gateway(igd.serve) as mapper:
        assert (await mapper.map(4444, suggested=5555, lifetime_s=600)).lifetime_s == 600
    assert "<NewLeaseDuration>0</NewLeaseDuration>" in igd.asked[4]


@pytest.mark.parametrize("answers", [[fault(606)], [fault(718)] * 3, [fault(725), fault(501)]])
async def test_a_refusal_is_one(answers: list[str]) -> None:
    async with gateway(Igd(IP, *answers).serve) as mapper:
        with pytest.raises(MappingRefused):
            await mapper.map(4444, suggested=5555, lifetime_s=600)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {name} "{10 * f"&{of};"}">' for of, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><b>&i;</b>"
)
NESTED = "<device>" * 5000 + "</device>" * 5000


@pytest.mark.parametrize(
    "document",
    [
        "",
        "garbage",
        "<root/>",
        BOMB,
        f'<root xmlns="urn:schemas-upnp-org:device-1-0">{NESTED}</root>',
        "x" * 300_000,
        DESCRIPTION.format(base=f"http://{ELSEWHERE}:1"),
        DESCRIPTION.format(base="http://["),
    ],
)
async def test_a_description_that_is_none_is_no_answer(document: str) -> None:
    igd = Igd()
    igd.documents["/root.xml"] = document
    async with gateway(igd.serve) as mapper:
        with pytest.raises((GatewaySilent, MappingRefused)):
            await mapper.map(4444, suggested=5555, lifetime_s=600)
    assert igd.asked == ["/root.xml"]


@pytest.mark.parametrize(
    "ip", ["", "<NewExternalIPAddress>home</NewExternalIPAddress>", "<NewExternalIPAddress></NewExternalIPAddress>"]
)
async def test_an_external_address_that_is_none_is_no_answer(ip: str) -> None:
    async with gateway(Igd(answer("GetExternalIPAddress", ip)).serve) as mapper:
        with pytest.raises(GatewaySilent):
            await mapper.map(4444, suggested=5555, lifetime_s=600)


async def test_a_gateway_that_sends_for_ever_or_never_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpfleet.net.portmap.igd._TALK_S", 0.3)

    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            try:
                await writer.drain()
            except ConnectionError:
                return

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for handler in (endless, mute):
        async with asyncio.timeout(2), gateway(handler) as mapper:
            with pytest.raises(GatewaySilent):
                await mapper.map(4444, suggested=5555, lifetime_s=600)


async def test_nobody_but_the_gateway_is_talked_to() -> None:
    visited: list[str] = []

    async def elsewhere(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visited.append("elsewhere")
        writer.close()

    other = await asyncio.start_server(elsewhere, ELSEWHERE, 0)
    there = f"http://{ELSEWHERE}:{other.sockets[0].getsockname()[1]}/root.xml"

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with gateway(redirect) as mapper:
        for location in ("", there):
            if location:
                mapper.found_at(location)
            with pytest.raises(GatewaySilent):
                await mapper.map(4444, suggested=5555, lifetime_s=600)
    other.close()
    assert visited == []
