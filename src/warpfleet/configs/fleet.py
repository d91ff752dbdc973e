"""The fleet file: which services there are, and which nodes stand where."""

import re
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    StrictBool,
    StrictInt,
    model_serializer,
    model_validator,
)

from warpfleet.configs.loader import error_at
from warpfleet.core.combo import Transport
from warpfleet.core.endpoint import Endpoint, Scope, scope_of
from warpfleet.core.errors import InputError
from warpfleet.core.exit import INTERNET
from warpfleet.core.forward import Permission, canonical_host

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")  # no colon or comma: `--pairs a:b,c:d` is made of names
_INTERFACE = re.compile(r"[^\s/:]{1,15}")  # IFNAMSIZ is 16 bytes with the terminating zero
_MASK = "***"
_MQTT_PORT, _MQTTS_PORT = 1883, 8883
_TURN_PORT, _TURNS_PORT = 3478, 5349  # RFC 8656 section 6
_NTP_PORT = 123


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("use 1 to 64 letters, digits, '.', '_' or '-', not beginning with '.' or '-'")
    return text


def _interface(text: str) -> str:
    if not _INTERFACE.fullmatch(text):
        raise ValueError("an interface name has 1 to 15 characters, no space, '/' or ':'")
    return text


def _source_address(text: str) -> str:
    try:
        canonical = str(ip_address(text))
    except ValueError:
        raise ValueError("not an IP address; write for example 192.0.2.7") from None
    if scope_of(canonical) is Scope.UNUSABLE:
        raise ValueError("nothing can be sent from this address; give one that an interface of the host has")
    return canonical


def _host_port(text: str, default_port: int | None, example: str) -> tuple[str, int]:
    """Split `host`, `host:port`, `[v6]` or `[v6]:port`. The messages never quote the text: it may hold a password."""
    found = re.fullmatch(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d{1,5}))?", text, re.ASCII)
    port = int(found["port"]) if found and found["port"] else default_port
    if found is None or port is None:
        raise ValueError(f"write it like {example}")
    if not 0 < port < 65536:
        raise ValueError("the port must be between 1 and 65535")
    return canonical_host(found["v6"] or found["host"]), port


def _stun_endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    host, port = _host_port(_text(value), None, "203.0.113.20:3478 or [2001:db8::20]:3478")
    try:
        return Endpoint(str(ip_address(host)), port)
    except ValueError:
        raise ValueError("needs an IP address, not a host name: which address answers is what is tested") from None


def _permission(value: object) -> Permission:
    return value if isinstance(value, Permission) else Permission.parse(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("should be a string: put it in quotes")
    return value


Name = Annotated[str, AfterValidator(_name)]
StunEndpoint = Annotated[Endpoint, PlainValidator(_stun_endpoint), PlainSerializer(str, return_type=str)]
ForwardPermission = Annotated[Permission, PlainValidator(_permission), PlainSerializer(str, return_type=str)]
Port = Annotated[StrictInt, Field(ge=0, le=65535)]


class _Strict(BaseModel):
    # The values of a wrong entry stay out of pydantic's own messages: it may be a URL with a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Broker(_Strict):
    """An MQTT broker, written `mqtt://[user:password@]host[:port]`, or `mqtts://` for TLS."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: object) -> object:
        if isinstance(value, Broker):
            return value
        scheme, separator, rest = _text(value).partition("://")
        login, _, address = rest.rpartition("@")
        if not separator or scheme not in ("mqtt", "mqtts") or re.search(r"[/?#\s]", rest):
            raise ValueError("write mqtt://[user:password@]host[:port] or mqtts://..., special characters as %XX")
        username, _, password = login.partition(":")
        default_port = _MQTTS_PORT if scheme == "mqtts" else _MQTT_PORT
        host, port = _host_port(address, default_port, "mqtt://203.0.113.10:1883")
        return {
            "host": host,
            "port": port,
            "tls": scheme == "mqtts",
            "username": unquote(username) or None,
            "password": SecretStr(unquote(password)) if password else None,
        }

    @model_serializer
    def _to_url(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """The URL, its password masked."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = quote(self.username, safe="") if self.username else ""
        login += f":{_MASK}" if self.password else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{login}{'@' if login else ''}{host}:{self.port}"


class TurnServer(_Strict):
    """A TURN server (RFC 8656) by its URI (RFC 7065), with a long-term password or the secret for ephemeral ones."""

    url: str
    username: str | None = None
    password: SecretStr | None = None
    secret: SecretStr | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self._parts()
        except ValueError as error:
            raise error_at(("url",), str(error)) from None
        if (self.password is None) == (self.secret is None):
            raise ValueError("give either 'password' (with 'username') or 'secret'")
        if self.password is not None and not self.username:
            raise ValueError("'password' needs a 'username'; add it")
        return self

    @property
    def host(self) -> str:
        """A host name or an IP address."""
        return self._parts()[0]

    @property
    def port(self) -> int:
        """3478, for TLS 5349, unless the URI says otherwise."""
        return self._parts()[1]

    @property
    def transport(self) -> Transport:
        """Between us and the server; what is relayed is always UDP."""
        return self._parts()[2]

    @property
    def tls(self) -> bool:
        """Whether the server is spoken to over TLS."""
        return self.url.startswith("turns:")

    def _parts(self) -> tuple[str, int, Transport]:
        example = "turn:203.0.113.20:3478?transport=udp"
        parts = urlsplit(self.url)
        if parts.scheme not in ("turn", "turns") or parts.netloc or parts.fragment:
            raise ValueError(f"write it like {example}, turn: or turns:, without slashes or credentials")
        query = parse_qs(parts.query, keep_blank_values=True)
        wanted = query.pop("transport", ["tcp" if self.tls else "udp"])
        if query or len(wanted) != 1 or wanted[0] not in ("udp", "tcp"):
            raise ValueError("after '?' only transport=udp or transport=tcp may stand")
        if self.tls and wanted[0] == "udp":
            raise ValueError("TURN over DTLS is not supported; write turns:...?transport=tcp")
        host, port = _host_port(parts.path, _TURNS_PORT if self.tls else _TURN_PORT, example)
        return host, port, Transport(wanted[0])


class NtpServer(_Strict):
    """An NTP server, written `host` or `host:port`."""

    host: str
    port: int = _NTP_PORT

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, NtpServer):
            return value
        text = _text(value)
        if re.fullmatch(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", text):
            text = f"[{text}]"
        host, port = _host_port(text, _NTP_PORT, "203.0.113.30 or ntp.example.net:123")
        return {"host": host, "port": port}

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Services(_Strict):
    """What the nodes use. An empty list is a service that an embedded one stands in for, where it can."""

    mqtt: tuple[Broker, ...] = ()
    stun: tuple[StunEndpoint, ...] = ()
    turn: tuple[TurnServer, ...] = ()
    ntp: tuple[NtpServer, ...] = ()


class Vantage(_Strict):
    """Where a node's sockets are opened: exactly one of a network namespace, an interface, a source address."""

    netns: Name | None = None
    interface: Annotated[str, AfterValidator(_interface)] | None = None
    address: Annotated[str, AfterValidator(_source_address)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [kind for kind in ("netns", "interface", "address") if getattr(self, kind) is not None]
        if len(kinds) > 1:
            raise ValueError(f"has {' and '.join(repr(kind) for kind in kinds)}; keep one of them")
        if not kinds:
            raise ValueError(
                "give one of 'netns', 'interface', 'address', or leave 'vantage' out for the default route"
            )
        return self


class FleetNode(_Strict):
    """One node of the fleet. Without a vantage it uses the default route, without a host any host serves it. `forward`
    is what its peers may have dialled from it: nothing unless it is named. `plain`: its pipes over TCP need not be
    sealed, where the peer says the same."""

    name: Name
    vantage: Vantage | None = None
    host: Name | None = None
    listen: tuple[Port, ...] = (0,)
    forward: tuple[ForwardPermission, ...] = ()
    plain: StrictBool = False

    @model_validator(mode="after")
    def _ports_once(self) -> Self:
        for index, port in enumerate(self.listen):
            if port and port in self.listen[:index]:
                raise error_at(("listen", index), f"port {port} is listed twice; remove one")
        return self


class Fleet(_Strict):
    """A whole fleet file, checked.

    `realm` is the address realm (RFC 2663 section 2.1) that external addresses belong to: laboratories have one each,
    since all use the same addresses.
    """

    version: Literal[1]
    name: Name
    realm: Name = INTERNET
    services: Services = Services()
    nodes: tuple[FleetNode, ...]

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if not self.nodes:
            raise error_at(("nodes",), "the list is empty; add at least one node")
        first: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            if first.setdefault(node.name, index) != index:
                message = f"the name '{node.name}' is already that of nodes[{first[node.name]}]; rename one"
                raise error_at(("nodes", index, "name"), message)
        return self

    def node(self, name: str) -> FleetNode:
        """The node of that name. InputError, with the nearest name, where there is none."""
        names = {node.name: node for node in self.nodes}
        if name in names:
            return names[name]
        near = get_close_matches(name, names, n=1)
        remedy = f"did you mean '{near[0]}'?" if near else "its nodes are " + ", ".join(list(names)[:10])
        raise InputError(f"fleet '{self.name}' has no node '{name}'; {remedy}")

    def redacted(self) -> dict[str, Any]:
        """The fleet as JSON values in the shape of the file, every password and secret masked."""
        return self.model_dump(mode="json", exclude_none=True)
