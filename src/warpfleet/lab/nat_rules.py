"""A router's nftables ruleset from its `NatSpec`. Pure text: what it does is proved by probing, not by reading it.

Beyond Linux's own connection tracking, two dynamic maps per protocol make the mapping endpoint-independent where it
should be: `outside` (internal endpoint, with the destination's address for ADM, to external port) is asked before a
new port is allocated, and `inside` (external port to internal endpoint) lets unsolicited packets in, as far as
`permitted` (external endpoint and remote address) and the filtering allow. Every outbound packet refreshes them, after
translation, so that they hold what the kernel really chose.

An unsolicited packet that nothing lets in ends in the `input` chain, which drops it: a dropped packet confirms no
connection-tracking entry, so it cannot take the tuple that the host's own packet is about to use.
"""

from binascii import crc32

from warpfleet.configs.topology import Ipv6, RouterSpec, TcpAnswer
from warpfleet.core.nat import Filtering, Mapping, PortAssignment
from warpfleet.core.port_mapping import PortMapping
from warpfleet.core.port_range import WHOLE, PortRange

WAN, LAN = "wan", "lan"
# The chains that the port mapping daemon writes its rules into: what may pass, whereto, and from where.
TABLE = "warpfleet"
MAPPED, MAPPED_IN, MAPPED_OUT = "mapped", "mapped_in", "mapped_out"
UPNP_HTTP_PORT, PORT_MAPPING_PORT = 5000, 5351
_SSDP_PORT = 1900
# A sequential allocator starts at a place of its own per router, and wraps after some thousand mappings.
_SEQUENCE_STARTS, _SEQUENCE_SPAN, _SEQUENCE_MAPPINGS = 40_000, 16_384, 4_096
# RFC 5382 section 5, REQ-5: a TCP mapping without an established connection lives four minutes at least.
_TCP_LIFETIME_S = 240
_MAP_SIZE = 131_072  # two full port ranges


def ruleset(router: RouterSpec, external_ip: str, inside_net: str) -> str:
    """What `nft -f` reads. `external_ip` is the router's address on `wan`, `inside_net` the IPv4 prefix on `lan`."""
    chains = [*_mapped(router), *_forward(router), *_input(router)]
    if router.nat.translated:
        chains += [*_translate_in(router, external_ip), *_translate_out(router, external_ip, inside_net)]
    if router.nat.translated or router.nat.filtering is Filtering.ADF:
        chains += _record(router, external_ip)
    return "\n".join([f"table inet {TABLE} {{", *_maps(router), *chains, "}", ""])


def _chain(name: str, hook: str | None, *rules: str | None) -> list[str]:
    head = [f"    type {hook}"] if hook else []
    return [f"  chain {name} {{", *head, *(f"    {rule}" for rule in rules if rule), "  }"]


def _lifetime_s(router: RouterSpec, protocol: str) -> int:
    return router.nat.udp_lifetime_s if protocol == "udp" else _TCP_LIFETIME_S


def _outside_key(router: RouterSpec, address: str, port: str) -> str:
    return f"{address} . {port}" + (" . ip daddr" if router.nat.mapping is Mapping.ADM else "")


def _maps(router: RouterSpec) -> list[str]:
    tail = f"size {_MAP_SIZE}; flags dynamic,timeout; }}"
    destination = " . ipv4_addr" if router.nat.mapping is Mapping.ADM else ""
    lines = []
    for protocol in ("udp", "tcp"):
        lines += [
            f"  map inside_{protocol} {{ type inet_service : ipv4_addr . inet_service; {tail}",
            f"  map outside_{protocol} {{ type ipv4_addr . inet_service{destination} : inet_service; {tail}",
            f"  set permitted_{protocol} {{ type ipv4_addr . inet_service . ipv4_addr; {tail}",
        ]
    return lines


def _mapped(router: RouterSpec) -> list[str]:
    names = (MAPPED, MAPPED_IN, MAPPED_OUT) if router.nat.port_mapping else ()
    return [line for name in names for line in _chain(name, None)]


def _jump(router: RouterSpec, chain: str) -> str | None:
    return f"jump {chain}" if router.nat.port_mapping else None


def _forward(router: RouterSpec) -> list[str]:
    nat = router.nat
    tcp_ports = ", ".join(str(port) for port in nat.tcp_out_ports)
    return _chain(
        "forward",
        "filter hook forward priority filter; policy drop",
        "ct state invalid drop",
        "meta l4proto udp drop" if nat.udp_blocked else None,
        "ct state established,related accept",
        f'iifname "{LAN}" oifname "{WAN}" meta l4proto tcp tcp dport != {{ {tcp_ports} }} drop' if tcp_ports else None,
        f'iifname "{LAN}" oifname "{WAN}" accept',
        _jump(router, MAPPED),
        "ct status dnat accept" if nat.translated else None,
        *([] if nat.translated else _untranslated_filter(nat.filtering)),
        f'iifname "{WAN}" meta nfproto ipv6 accept' if router.ipv6 is Ipv6.OPEN else None,
        _tcp_answer(router),
    )


def _untranslated_filter(filtering: Filtering) -> list[str]:
    from_wan = f'iifname "{WAN}" meta nfproto ipv4'
    if filtering is Filtering.EIF:
        return [f"{from_wan} accept"]
    if filtering is Filtering.ADF:
        return [
            f"{from_wan} ip daddr . {protocol} dport . ip saddr @permitted_{protocol} accept"
            for protocol in ("udp", "tcp")
        ]
    return []


def _tcp_answer(router: RouterSpec) -> str | None:
    reset = router.nat.tcp_unsolicited is TcpAnswer.RST
    return f'iifname "{WAN}" meta l4proto tcp reject with tcp reset' if reset else None


def _input(router: RouterSpec) -> list[str]:
    return _chain(
        "input",
        "filter hook input priority filter; policy drop",
        "ct state established,related accept",
        'iifname "lo" accept',
        *_port_mapping_questions(router),
        "icmp type echo-request accept",
        "icmpv6 type { echo-request, nd-neighbor-solicit, nd-neighbor-advert } accept",
        _tcp_answer(router),
    )


def _port_mapping_questions(router: RouterSpec) -> list[str]:
    """What the port mapping daemon hears of hosts. PCP and NAT-PMP share a port: the first byte of the message, which
    is the version, tells them apart (RFC 6887 section 9)."""
    version = f'iifname "{LAN}" udp dport {PORT_MAPPING_PORT} @th,64,8'
    heard = {
        PortMapping.UPNP: [
            f'iifname "{LAN}" udp dport {_SSDP_PORT} accept',
            f'iifname "{LAN}" tcp dport {UPNP_HTTP_PORT} accept',
        ],
        PortMapping.NATPMP: [f"{version} 0 accept"],
        PortMapping.PCP: [f"{version} 2 accept"],
    }
    return [rule for protocol in router.nat.port_mapping for rule in heard[protocol]]


def _translate_in(router: RouterSpec, external_ip: str) -> list[str]:
    rules = [_jump(router, MAPPED_IN)]
    for protocol in ("udp", "tcp"):
        to_inside = f"dnat ip to {protocol} dport map @inside_{protocol}"
        permitted = f"ip daddr . {protocol} dport . ip saddr @permitted_{protocol} "
        if router.nat.filtering is not Filtering.APDF:
            condition = permitted if router.nat.filtering is Filtering.ADF else ""
            rules.append(f'iifname "{WAN}" ip daddr {external_ip} meta l4proto {protocol} {condition}{to_inside}')
        if router.nat.hairpinning:
            rules.append(f'iifname "{LAN}" ip daddr {external_ip} meta l4proto {protocol} {to_inside}')
    return _chain("translate_in", "nat hook prerouting priority dstnat", *rules)


def _translate_out(router: RouterSpec, external_ip: str, inside_net: str) -> list[str]:
    return [
        *_chain(
            "translate_out",
            "nat hook postrouting priority srcnat",
            _jump(router, MAPPED_OUT),
            f'oifname "{WAN}" meta nfproto ipv4 jump allocate',
            f'oifname "{LAN}" ip saddr {inside_net} ct status dnat jump allocate',  # hairpinned
        ),
        *_chain("allocate", None, *_allocate(router, external_ip)),
    ]


def _allocate(router: RouterSpec, external_ip: str) -> list[str]:
    snat = f"snat ip to {external_ip}"
    random_port = f":{router.nat.port_range or WHOLE} fully-random"
    rules = []
    if router.nat.mapping is not Mapping.APDM:
        for protocol in ("udp", "tcp"):
            key = _outside_key(router, "ip saddr", f"{protocol} sport")
            rules.append(f"meta l4proto {protocol} {snat} : {key} map @outside_{protocol}")
    match router.nat.port_assignment:
        case PortAssignment.SEQUENTIAL:
            rules.append(f"meta l4proto {{ tcp, udp }} {snat} : {_sequence(router)}")
        case PortAssignment.RANDOM:
            rules.append(f"meta l4proto {{ tcp, udp }} {snat}{random_port}")
        case _:  # preserving: another port only where this one belongs to another internal endpoint
            for protocol in ("udp", "tcp"):
                rules.append(f"meta l4proto {protocol} {protocol} sport @inside_{protocol} {snat}{random_port}")
    return [*rules, snat]


def _sequence(router: RouterSpec) -> str:
    """Ports one step apart, from a map: nft hands a bare `numgen` to `snat` with its bytes swapped."""
    low = WHOLE.first + crc32(router.name.encode()) % _SEQUENCE_STARTS
    first, last = router.nat.port_range or PortRange(low, low + _SEQUENCE_SPAN)
    delta = router.nat.port_delta
    count = min(_SEQUENCE_MAPPINGS, (last - first) // abs(delta))
    start = first if delta > 0 else last
    ports = ", ".join(f"{index} : {start + index * delta}" for index in range(count))
    return f"numgen inc mod {count} map {{ {ports} }}"


def _record(router: RouterSpec, external_ip: str) -> list[str]:
    outbound = [f'oifname "{WAN}" meta nfproto ipv4']
    if router.nat.translated:
        outbound.append(f'oifname "{LAN}" ip saddr {external_ip}')  # hairpinned, after translation
    jumps = [f"{match} ct direction {way} jump record_{way}" for match in outbound for way in ("original", "reply")]
    original, reply = [], []
    for protocol in ("udp", "tcp"):
        timeout = f"timeout {_lifetime_s(router, protocol)}s"
        of, port = f"meta l4proto {protocol}", f"{protocol} sport"
        original.append(f"{of} update @permitted_{protocol} {{ ip saddr . {port} . ip daddr {timeout} }}")
        if router.nat.translated:
            key = _outside_key(router, "ct original ip saddr", "ct original proto-src")
            inside = f"{of} update @inside_{protocol} {{ {port} {timeout} :"
            original.append(f"{inside} ct original ip saddr . ct original proto-src }}")
            original.append(f"{of} update @outside_{protocol} {{ {key} {timeout} : {port} }}")
            reply.append(f"{inside} ct reply ip saddr . ct reply proto-src }}")
    return [
        *_chain("record", "filter hook postrouting priority srcnat + 50", *jumps),
        *_chain("record_original", None, *original),
        *_chain("record_reply", None, *reply),
    ]
