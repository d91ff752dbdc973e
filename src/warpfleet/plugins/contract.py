"""What a plugin is: what its author implements."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from warpfleet.core.combo import RouteType, Transport
from warpfleet.core.pairing import Requirement
from warpfleet.core.peer import ADDRESS_FAMILIES, AddressFamily
from warpfleet.core.targets import USUAL_ALLOWANCE, Allowance
from warpfleet.plugins.attempt_context import AttemptContext, Won
from warpfleet.plugins.attempt_messages import AttemptMessage
from warpfleet.plugins.node_ports import NodePorts


class Strategy(ABC):
    """One traversal technique; an instance is one side of one attempt.

    A plugin states what it is by these class attributes, is registered with `@register(phase=...)`, and runs.
    `result` resolves to what it won, or to None where the attempt did not win.
    """

    name: ClassVar[str]
    transport: ClassVar[Transport]
    requirement: ClassVar[Requirement]
    routes: ClassVar[tuple[RouteType, ...]]
    families: ClassVar[tuple[AddressFamily, ...]] = ADDRESS_FAMILIES
    proto_messages: ClassVar[tuple[type[AttemptMessage], ...]] = ()
    reaches: ClassVar[tuple[RouteType, ...]] = ()
    """Route types whose addresses an attempt may send to, where they are more than that of its combo."""
    allowance: ClassVar[Allowance] = USUAL_ALLOWANCE
    """What a node's attempts with one peer may send together."""
    accepts_streams: ClassVar[bool] = False
    """Whether an inbound stream may make the responder's side of an attempt."""
    carries_pipe: ClassVar[bool] = True
    """Whether an attempt yields a pipe; an auxiliary plugin may not."""

    def __init__(self, context: AttemptContext) -> None:
        self.context = context
        self.result: asyncio.Future[Won | None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def setup(cls, _node: NodePorts) -> "AttemptFactory | None":
        """Prepare one node; returns what makes an attempt, or None to opt out. MissingError ends the start."""
        return cls

    @abstractmethod
    async def run(self) -> Won | None:
        """Run this side of the attempt until its pipe is agreed on. Anything raised fails the attempt."""


AttemptFactory = Callable[[AttemptContext], Strategy]
