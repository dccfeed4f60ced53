"""What we need of a reactor, as types: Twisted's zope interfaces say the same, unseen by type checkers.

A parameter takes the smallest of these that serves. ``twisted.internet.task.Clock`` is a
:class:`Clock`, the global reactor is all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class DelayedCall(Protocol):
    """A call that ``callLater`` promised."""

    def active(self) -> bool:
        """Whether it is still to come."""
        ...

    def cancel(self) -> None:
        """Takes the promise back."""
        ...

    def getTime(self) -> float:
        """When it comes, by the clock's ``seconds``."""
        ...


class Clock(Protocol):
    """Monotonic time and timers (IReactorTime)."""

    def seconds(self) -> float:
        """Monotonic seconds."""
        ...

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> DelayedCall:
        """Calls later by ``delay`` seconds."""
        ...


class ThreadReactor(Clock, Protocol):
    """Timers, and a way back from threads (IReactorFromThreads)."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Calls in the reactor's thread; the one method that any thread may use."""
        ...


class DescriptorReactor(Clock, Protocol):
    """Timers, and descriptors watched for reading (IReactorFDSet)."""

    def addReader(self, reader: Any) -> None:
        """Watches an IReadDescriptor."""
        ...

    def removeReader(self, reader: Any) -> None:
        """Stops watching it."""
        ...
