"""The URL of an MQTT broker."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from warpfleet.core.errors import InputError

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}  # IANA's registrations for MQTT and for MQTT over TLS


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker is and how to log in. The password never shows in a repr, nor in `str`."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Read `mqtt://user:pass@host:port` or `mqtts://...`, percent-decoding the login. InputError."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InputError(f"services.mqtt: a broker's URL is wrong ({error}): use mqtt://HOST:PORT") from error
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise InputError("services.mqtt: a broker's URL must read mqtt://HOST:PORT or mqtts://HOST:PORT")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise InputError(f"services.mqtt: the URL of broker {parts.hostname} has more than a host and a port")
        return cls(
            host=parts.hostname,
            port=port or _DEFAULT_PORTS[parts.scheme],
            tls=parts.scheme == "mqtts",
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )
