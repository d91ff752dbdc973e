"""The protocols in which a router is asked to let strangers in to a port."""

from enum import StrEnum


class PortMapping(StrEnum):
    """One protocol."""

    PCP = "pcp"  # RFC 6887; over IPv6 for pinholes in a firewall
    NATPMP = "natpmp"  # RFC 6886; IPv4 alone
    UPNP = "upnp"  # UPnP Forum, InternetGatewayDevice:1 and :2; over IPv6 WANIPv6FirewallControl:1
