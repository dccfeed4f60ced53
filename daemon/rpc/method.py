"""One method as :mod:`daemon.rpc.gate` serves it, and what it may know of the call it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from daemon.rpc.access import Caller
from daemon.rpc.bridge import Asked, CallContext

SMALL_BYTES = 64 * 1024  # of a request of names and numbers


class Desk(Protocol):
    """Who knows the callers: the gate."""

    def caller(self, context: Any) -> Caller:
        """The other side of a call."""
        ...

    def note(self, context: Any, method: str, what: str) -> None:
        """Writes a line about what a caller told us."""
        ...


class Call:
    """What a method may know of the call it answers.

    Attributes:
        context: of gRPC, for the bridge.
        asked: what the method's ``ahead`` asked.
    """

    __slots__ = ("_desk", "_method", "asked", "context")

    def __init__(self, desk: Desk, method: str, context: CallContext, asked: Asked | None) -> None:
        self._desk = desk
        self._method = method
        self.context = context
        self.asked = asked

    def peer(self) -> str:
        """Who calls, in words."""
        return str(self._desk.caller(self.context))

    def note(self, what: str) -> None:
        """Writes a line about what the caller told us."""
        self._desk.note(self.context, self._method, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method as the gate serves it.

    Attributes:
        name: its name in the service.
        read: bytes to a request; raises RequestError.
        answer: request to bytes; raises our own errors.
        about: the agent or component of a request, for the audit.
        max_bytes: of a request.
        mutates: it may change something: an event tells of each call.
        long: it may wait for a process to end: few at a time.
        large: its messages are tens of megabytes: few at a time, and with more time to come.
        ahead: asks the reactor while the message is still to come, for a method whose question is always the
            same: a worker that waits once instead of twice costs a third less. None: nothing is to be asked.
    """

    name: str
    read: Callable[[bytes], Any]
    answer: Callable[[Any, Call], bytes]
    about: Callable[[Any], str] | None = None
    max_bytes: int = SMALL_BYTES
    mutates: bool = False
    long: bool = False
    large: bool = False
    ahead: Callable[[CallContext], Asked | None] | None = None
