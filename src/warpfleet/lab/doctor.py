"""What a laboratory and the programs around it need of this machine, and the command that mends what is missing."""

import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from warpfleet.core.errors import MissingError
from warpfleet.lab import netns, rootless
from warpfleet.lab.rootless import Mode
from warpfleet.lab.wire import attach

MINIMUM_PYTHON = (3, 11)
_PROGRAMS = {  # program -> the Debian package that has it
    "ip": "iproute2",
    "nft": "nftables",
    "mosquitto": "mosquitto",
    "turnserver": "coturn",
    "chronyd": "chrony",
    "miniupnpd": "miniupnpd-nftables",
    "nsenter": "util-linux",
}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Check:
    """One need: whether it is met, what was found, and the remedy where it is not."""

    need: str
    ok: bool
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Check everything, the cheap things first. Makes one throw-away namespace, where this process may."""
    checks = [_python(), *(_program(name, package) for name, package in _PROGRAMS.items()), _privilege()]
    if all(check.ok for check in checks):
        checks += [_in_namespace("nftables NAT", _try_nat), _in_namespace("delay", _try_delay)]
    return checks


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ".".join(str(part) for part in MINIMUM_PYTHON)
    return Check(f"Python {wanted} or newer", sys.version_info >= MINIMUM_PYTHON, version, "apt install python3")


def _program(name: str, package: str) -> Check:
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    return Check(name, path is not None, path or "not installed", f"apt install {package}")


def _privilege() -> Check:
    found = rootless.mode()
    told = {
        Mode.ROOT: "root",
        Mode.ROOTLESS: "user namespaces, without root",
        Mode.NONE: "neither root nor user namespaces",
    }
    return Check(
        "privilege", found is not Mode.NONE, told[found], "run with sudo, or sysctl -w user.max_user_namespaces=10000"
    )


def _in_namespace(need: str, attempt: Callable[[str], str]) -> Check:
    namespace = "wf-doctor"
    try:
        netns.batch([f"netns add {namespace}"])
        try:
            return Check(need, True, attempt(namespace))
        finally:
            netns.delete([namespace])
    except (MissingError, OSError) as error:
        return Check(
            need, False, str(error), "use a kernel with CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_VETH and CONFIG_PACKET"
        )


def _try_nat(namespace: str) -> str:
    with netns.inside(namespace):
        netns.run(
            ["nft", "-f", "-"], "table inet t { chain c { type nat hook postrouting priority 100; masquerade; }; }\n"
        )
    return "works"


def _try_delay(namespace: str) -> str:
    if netns.has_netem(namespace):
        return "netem"
    with netns.inside(namespace), closing(attach("lo")):
        return "user space (no netem in this kernel)"
