"""The daemon of a router that maps ports (miniupnpd): its configuration, and the proof that it answers."""

import socket
from collections.abc import Callable
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

from warpfleet.core.port_mapping import PortMapping
from warpfleet.lab.nat_rules import (
    LAN,
    MAPPED,
    MAPPED_IN,
    MAPPED_OUT,
    PORT_MAPPING_PORT,
    TABLE,
    UPNP_HTTP_PORT,
    WAN,
)
from warpfleet.lab.plan import Namespace
from warpfleet.lab.servers import Server, ask, private_file

_LIFETIME_MIN_S = 2  # whoever asks for a short lease gets one: its end can be waited for
_NAT_PMP_ADDRESS = bytes(2)  # RFC 6886 section 3.2
_PCP_ANNOUNCE = b"\2" + bytes(23)  # RFC 6887 section 14.1; our address in it is wrong, which is an answer worth having


def configure(router: Namespace, folder: Path) -> Server:
    """Write the daemon's configuration below `folder`."""
    role = f"miniupnpd.{router.name}"
    over_udp = {PortMapping.PCP, PortMapping.NATPMP} & set(router.port_mapping)
    lines = [f"ext_ifname={WAN}", f"listening_ip={LAN}", f"http_port={UPNP_HTTP_PORT}", "secure_mode=yes"]
    lines += [f"enable_upnp={_word(PortMapping.UPNP in router.port_mapping)}", f"enable_natpmp={_word(bool(over_udp))}"]
    lines += [f"min_lifetime={_LIFETIME_MIN_S}", f"uuid={uuid5(NAMESPACE_DNS, router.name)}"]
    lines += [f"upnp_table_name={TABLE}", f"upnp_nat_table_name={TABLE}", f"upnp_forward_chain={MAPPED}"]
    lines += [f"upnp_nat_chain={MAPPED_IN}", f"upnp_nat_postrouting_chain={MAPPED_OUT}"]
    config = private_file(folder / f"{role}.conf", "\n".join(lines) + "\n")
    command = ["miniupnpd", "-d", "-f", str(config), "-P", str(folder / f"{role}.pid")]  # -d: in the foreground
    return Server(
        role, router.name, [], command, [_question(protocol, router.lan_ip) for protocol in router.port_mapping]
    )


def _word(on: bool) -> str:
    return "yes" if on else "no"


def _question(protocol: PortMapping, lan_ip: str) -> Callable[[], bool]:
    if protocol is PortMapping.UPNP:
        request = f"GET /rootDesc.xml HTTP/1.0\r\nHost: {lan_ip}\r\n\r\n".encode()
        return lambda: ask(socket.SOCK_STREAM, lan_ip, UPNP_HTTP_PORT, request)[:5] == b"HTTP/"
    request = _PCP_ANNOUNCE if protocol is PortMapping.PCP else _NAT_PMP_ADDRESS
    return lambda: ask(socket.SOCK_DGRAM, lan_ip, PORT_MAPPING_PORT, request)[:1] == request[:1]
