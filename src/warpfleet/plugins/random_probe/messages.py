"""Messages of the random probe."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from warpfleet.core.endpoint import canonical
from warpfleet.core.port_range import PortRange, checked
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.greeting import Flight, Greeting

_AddressText = Annotated[str, AfterValidator(canonical)]
_Port = Annotated[int, Field(gt=0, lt=65536)]
_Block = Annotated[PortRange, AfterValidator(checked)]


class Offer(AttemptMessage):
    """The initiator's external address. `port` is None where each of its mappings has another one, one of this `block`
    if that is known."""

    kind: ClassVar[str] = "random_probe.offer"
    opens: ClassVar[bool] = True

    address: _AddressText
    port: _Port | None
    block: _Block | None = None
    greeting: Greeting | None = None


class Answer(AttemptMessage):
    """The responder's external address; `port` and `block` as above. Where it was greeted, the first flight of its
    tunnel."""

    kind: ClassVar[str] = "random_probe.answer"

    address: _AddressText
    port: _Port | None
    block: _Block | None = None
    flight: Flight = ()
