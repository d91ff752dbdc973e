"""Where a node's sockets are opened: a network namespace, an interface, an address, or the default route."""

import asyncio
import ctypes
import errno
import hashlib
import ipaddress
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import ifaddr

from warpfleet.configs import fleet as configs
from warpfleet.core.endpoint import Endpoint, Interface
from warpfleet.core.errors import InputError, MissingError
from warpfleet.net.interfaces import Unreachable

T = TypeVar("T")

NETNS_DIR = Path("/run/netns")  # where ip-netns(8) keeps its named namespaces
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module names it from Python 3.12 on
_NAME = re.compile(r"(?!\.\.?$)[^\s/\0]+")  # a file name: in NETNS_DIR, or in /sys/class/net


def family(af: int) -> socket.AddressFamily:
    """The socket family of an address family given as 4 or 6."""
    return socket.AF_INET6 if af == 6 else socket.AF_INET


@dataclass(frozen=True, slots=True)
class Vantage:
    """At most one of a namespace's name, an interface's name and a source address; none of them: the default route.

    A value that pickles. A socket opened at a namespace stays in it for life, even after `ip netns del`.
    InputError where more than one is given, or one is malformed.
    """

    netns: str | None = None
    interface: str | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if sum(place is not None for place in (self.netns, self.interface, self.address)) > 1:
            raise InputError(f"vantage {self}: give one of netns, interface and address")
        for key, name in (("netns", self.netns), ("interface", self.interface)):
            if name is not None and not _NAME.fullmatch(name):
                raise InputError(f"vantage.{key}: {name!r} is no name: leave out spaces and slashes")
        if self.address is not None:
            try:
                object.__setattr__(self, "address", str(ipaddress.ip_address(self.address)))
            except ValueError:
                raise InputError(f"vantage.address: {self.address!r} is not an IP address") from None

    @classmethod
    def of(cls, given: configs.Vantage | None) -> Self:
        """The vantage that a node of the fleet file names; without one, the default route."""
        return cls(netns=given.netns, interface=given.interface, address=given.address) if given else cls()

    def __str__(self) -> str:
        given = ((key, getattr(self, key)) for key in ("netns", "interface", "address"))
        return ", ".join(f"{key} {value}" for key, value in given if value is not None) or "default route"

    def open(
        self,
        af: int,
        kind: socket.SocketKind,
        *,
        port: int | None = None,
        ip: str | None = None,
        shared: bool = False,
    ) -> socket.socket:
        """A non-blocking socket at this vantage, bound where `port` is given (0: any free one) or the address is.

        `ip` binds it to one address of the vantage, and `shared` lets other shared sockets have the same port.
        Unreachable where the vantage has no such family, MissingError where it does not exist or may not be used,
        OSError where the port is taken.
        """
        if self.address is not None and Endpoint(self.address, 0).af != af:
            raise Unreachable(f"{self} has no IPv{af}")
        with self._entered():
            opened = _open(af, kind)
        try:
            self._place(opened, af, port, ip or self.address, shared)
        except BaseException:
            opened.close()
            raise
        return opened

    def _place(self, opened: socket.socket, af: int, port: int | None, ip: str | None, shared: bool) -> None:
        opened.setblocking(False)
        if af == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self.interface is not None:
            try:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            except OSError as error:
                raise self._missing(error) from error
        if port is None and ip is None:
            return
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if opened.type == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port is None:  # it is chosen at connect(), where only the whole 4-tuple must be free
                opened.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        try:
            opened.bind((ip or ("::" if af == 6 else "0.0.0.0"), port or 0))  # noqa: S104  every address of the vantage
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and ip == self.address:
                raise self._missing(error) from error
            raise

    def connect_blocking(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Resolve and connect at this vantage, each address in turn; for worker threads, since it blocks.

        The socket keeps `timeout_s` as its timeout, as `socket.create_connection` leaves it. OSError, as there.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._entered():
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        refusal: OSError = OSError(errno.EADDRNOTAVAIL, f"{self} has no address family in common with {host}")
        for index, (kind, _, _, _, remote) in enumerate(found):
            share_s = (deadline_s - time.monotonic()) / (len(found) - index)  # so that one dead address leaves time
            if share_s <= 0:
                break
            try:
                return self._connect(6 if kind == socket.AF_INET6 else 4, remote, share_s, timeout_s)
            except OSError as error:
                refusal = error
            except Unreachable:
                continue
        raise refusal

    def _connect(self, af: int, remote: tuple[object, ...], share_s: float, timeout_s: float) -> socket.socket:
        opened = self.open(af, socket.SOCK_STREAM)
        try:
            opened.settimeout(share_s)
            opened.connect(remote)
            opened.settimeout(timeout_s)
        except BaseException:
            opened.close()
            raise
        return opened

    def call_inside(self, function: Callable[[], T]) -> T:
        """Run a blocking function with this thread inside the namespace; for worker threads.

        Sockets that the function opens follow the namespace of a vantage, not its interface or address.
        """
        with self._entered():
            return function()

    async def run_inside(self, function: Callable[[], T]) -> T:
        """The same in a worker thread."""
        return await asyncio.to_thread(self.call_inside, function)

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """The addresses of a host name, or of an address given as text, asked for inside the vantage.

        Unreachable where the name has none.
        """
        try:
            return [Endpoint(str(ipaddress.ip_address(host)), port)]
        except ValueError:
            pass
        try:
            found = await self.run_inside(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except socket.gaierror as error:
            raise Unreachable(f"{host} cannot be resolved at {self}: {error.strerror}") from error
        return [Endpoint(str(remote[0]), port) for *_, remote in found]

    def interfaces(self) -> Sequence[Interface]:
        """The addresses of the vantage, loopback and link-local ones included."""
        with self._entered():
            found = [
                Interface(adapter.nice_name, ip.ip if isinstance(ip.ip, str) else ip.ip[0], ip.network_prefix)
                for adapter in ifaddr.get_adapters()
                for ip in adapter.ips
            ]
        if self.interface is not None:
            return [entry for entry in found if entry.name == self.interface]
        if self.address is not None:
            return [
                Interface(entry.name, self.address, entry.prefix_len) for entry in found if _covers(entry, self.address)
            ][:1]
        return found

    def machine_id(self) -> str:
        """Equal for two vantages exactly if they share a loopback interface; it tells nothing else of the machine."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        with self._entered():
            network = Path("/proc/thread-self/ns/net").stat()
        return hashlib.sha256(f"{boot_id} {network.st_dev} {network.st_ino}".encode()).hexdigest()[:32]

    def check(self) -> None:
        """MissingError, with the remedy, where the vantage does not exist or may not be used."""
        af = Endpoint(self.address, 0).af if self.address is not None else 4
        self.open(af, socket.SOCK_DGRAM).close()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """This thread is inside the namespace until the block ends, which must not contain an await."""
        if self.netns is None:
            yield
            return
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                # As text: a path by pathlib would take a third of the time that a socket does.
                away = os.open(f"{NETNS_DIR}/{self.netns}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _setns(away)
                finally:
                    os.close(away)
            except OSError as error:
                raise self._missing(error) from error
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def _missing(self, error: OSError) -> MissingError:
        if error.errno in (errno.EPERM, errno.EACCES):
            return MissingError(f"{self} may not be used: run as root, or with CAP_SYS_ADMIN and CAP_NET_RAW")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return MissingError(f"{self} cannot be entered, too many files are open: raise the limit with `ulimit -n`")
        if self.netns is not None:
            return MissingError(f"namespace {self.netns} does not exist: see `ip netns list`, or `warpfleet lab up`")
        return MissingError(f"{self} does not exist on this machine ({error.strerror}): see `ip address`")


def _open(af: int, kind: socket.SocketKind) -> socket.socket:
    try:
        return socket.socket(family(af), kind)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise Unreachable(f"this machine has no IPv{af}") from error
        raise


def _covers(interface: Interface, address: str) -> bool:
    """Whether an interface owns an address: its own, or any within the prefix of a loopback interface."""
    owned = ipaddress.ip_interface(f"{interface.ip}/{interface.prefix_len}")
    return interface.ip == address or (owned.ip.is_loopback and ipaddress.ip_address(address) in owned.network)


def _setns(namespace: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(namespace, _CLONE_NEWNET)
    elif _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if sys.version_info < (3, 12):
    _libc = ctypes.CDLL(None, use_errno=True)
