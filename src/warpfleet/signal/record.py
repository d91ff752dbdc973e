"""Address records: what a node says of where it can be reached, signed, and the book of the newest ones."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from warpfleet.core.endpoint import canonical
from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from warpfleet.core.nat import Filtering, Mapping, NatBehaviour, PortAssignment
from warpfleet.core.port_range import PortRange, checked

MAX_RECORD_BYTES = 16_384  # a host with hundreds of addresses stays below
MAX_RECORD_LIFETIME_S = 86_400.0  # an address that nobody confirmed for a day is not worth dialling
MAX_CLOCK_SKEW_S = 60.0  # hosts without NTP are seconds off, not minutes
_DOMAIN = b"warpfleet record 1\0"  # a signature over a record is never one over anything else

AddressFamily = Annotated[int, Field(ge=4, le=6, multiple_of=2)]  # as a key of JSON it comes as text
Port = Annotated[int, Field(ge=1, le=65535)]
IpText = Annotated[str, AfterValidator(canonical)]


def record_topic(node_id: str) -> str:
    """Where a node's record is retained."""
    return f"warpfleet/1/{node_id}/record"


def inbox_topic(node_id: str) -> str:
    """Where a node hears signals."""
    return f"warpfleet/1/{node_id}/inbox"


class RecordError(WarpfleetError):
    """A record that is not accepted: malformed, expired, superseded, or not signed by whom it names."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InterfaceAddress(_Frozen):
    """One address of the node's vantage."""

    ip: IpText
    prefix_len: int = Field(ge=0, le=128)


class ListenerAddress(_Frozen):
    """A TCP listener; the unspecified address means every interface of that family. `external` says that a port
    mapping (UPnP-IGD, NAT-PMP, PCP) makes it reachable at this very endpoint from outside."""

    ip: IpText
    port: Port
    external: bool = False


class NatRecord(_Frozen):
    """`core.nat.NatBehaviour` as it travels; `of` and `value` convert."""

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    port_assignment: PortAssignment = PortAssignment.UNKNOWN
    port_delta: int | None = None
    port_range: Annotated[PortRange, AfterValidator(checked)] | None = None
    hairpin: bool | None = None
    lifetime_s: float | None = None
    translated: bool | None = None
    udp: bool | None = None

    @classmethod
    def of(cls, nat: NatBehaviour) -> "NatRecord":
        """The record of a behaviour."""
        return cls(**{name: getattr(nat, name) for name in cls.model_fields})

    @property
    def value(self) -> NatBehaviour:
        """The behaviour."""
        return NatBehaviour(**dict(self))


class AddressRecord(_Frozen):
    """What a node says of where it can be reached. Times are in seconds since 1970; a higher `seq` is newer.

    `machine` is an opaque id of a network namespace on a machine: equal ids reach one another by loopback.
    `relay` says that the node has TURN servers. `standing` has by plugin the UDP port, at the external address of
    its family, where a socket of the node always hears.
    """

    name: str
    node_id: str
    seq: int = Field(ge=0)
    issued_at: float
    expires_at: float
    machine: str = ""
    interfaces: tuple[InterfaceAddress, ...] = ()
    external: dict[AddressFamily, IpText] = Field(default_factory=dict)
    listeners: tuple[ListenerAddress, ...] = ()
    nat: dict[AddressFamily, NatRecord] = Field(default_factory=dict)
    relay: bool = False
    standing: dict[str, dict[AddressFamily, Port]] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record as it travels: the signature (64 bytes) and the JSON it covers, kept byte for byte."""

    signature: bytes
    body: bytes

    @classmethod
    def sign(cls, record: AddressRecord, identity: Identity) -> "SignedRecord":
        """Sign a record with the identity it names; ValueError where it names another, or is too long."""
        if (record.name, record.node_id) != (identity.name, identity.public.node_id):
            raise ValueError(f"{identity.name} cannot sign the record of {record.name}")
        body = record.model_dump_json().encode()
        if len(body) + SIGNATURE_BYTES > MAX_RECORD_BYTES:
            raise ValueError(f"the record of {record.name} exceeds {MAX_RECORD_BYTES} bytes")
        return cls(identity.sign(_DOMAIN + body), body)

    def encode(self) -> bytes:
        """The bytes that a broker retains."""
        return self.signature + self.body

    @classmethod
    def decode(cls, data: bytes) -> "SignedRecord":
        """The inverse of `encode`; RecordError for what cannot be one."""
        if not SIGNATURE_BYTES < len(data) <= MAX_RECORD_BYTES:
            raise RecordError(f"a record of {len(data)} bytes")
        return cls(data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:])

    def verify(self, public: PublicIdentity) -> AddressRecord:
        """The record, proved to be that of `public`; RecordError where it is not."""
        if not public.verify(self.signature, _DOMAIN + self.body):
            raise RecordError(f"not signed by {public.name}")
        try:
            record = AddressRecord.model_validate_json(self.body)
        except ValidationError as error:
            raise RecordError(f"the record of {public.name} is malformed") from error
        if (record.name, record.node_id) != (public.name, public.node_id):
            raise RecordError(f"{public.name} signed a record of {record.name}")
        return record


class RecordBook:
    """The newest valid record of each node, by name. For one event loop."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[bytes, AddressRecord]] = {}
        self._changed: dict[str, asyncio.Event] = {}

    def put(self, data: bytes, public: PublicIdentity, now: float) -> AddressRecord:
        """Take a record that `public` should have signed; RecordError where it is refused."""
        held = self._records.get(public.name)
        if held is not None and held[0] == data:
            return held[1]
        record = SignedRecord.decode(data).verify(public)
        if not now - MAX_CLOCK_SKEW_S < record.expires_at < now + MAX_RECORD_LIFETIME_S + MAX_CLOCK_SKEW_S:
            raise RecordError(f"the record of {public.name} has expired, or expires too far ahead")
        held_is_valid = held is not None and held[1].node_id == record.node_id and held[1].expires_at > now
        if held is not None and held_is_valid and held[1].seq >= record.seq:
            raise RecordError(f"the record of {public.name} is not newer than the one held")
        self._records[public.name] = (data, record)
        event = self._changed.pop(public.name, None)
        if event is not None:
            event.set()
        return record

    def get(self, name: str, now: float) -> AddressRecord | None:
        """The newest record of a node, or None where there is none that has not expired."""
        held = self._records.get(name)
        if held is None or held[1].expires_at + MAX_CLOCK_SKEW_S < now:
            return None
        return held[1]

    async def changed(self, name: str) -> None:
        """Return once a newer record of the node is taken."""
        await self._changed.setdefault(name, asyncio.Event()).wait()
