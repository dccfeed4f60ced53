"""Callers that open a call and send nothing: each has so long for its message, then its call is ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from daemon.aio.reactor import DelayedCall, ThreadReactor

SWEEP_S = 2.0  # between two looks, while somebody owes us a message


class MessageDeadlines:
    """Who still owes us a message, and until when. May be told from any thread; idle while nobody does.

    Args:
        reactor: the timer.
        now: monotonic seconds, in any thread.

    Attributes:
        ended_total: calls ended because their message did not come.
    """

    def __init__(self, reactor: ThreadReactor, now: Callable[[], float] = time.monotonic) -> None:
        self.ended_total = 0
        self._reactor = reactor
        self._now = now
        self._ends: dict[Any, float] = {}
        self._armed = False
        self._timer: DelayedCall | None = None
        self._stopped = False

    def begin(self, context: Any, within_s: float) -> None:
        """The context's caller has that long."""
        self._ends[context] = self._now() + within_s
        # In this order, and the other way round in _look: it sees the entry, or this sees that nobody looks.
        if not self._armed:
            self._armed = True
            self._reactor.callFromThread(self._arm)

    def end(self, context: Any) -> None:
        """It came, or the call is over."""
        self._ends.pop(context, None)

    def sweep(self) -> None:
        """Ends the calls whose time is over."""
        now = self._now()
        late = [context for context, end in tuple(self._ends.items()) if now > end]
        for context in late:
            self.end(context)
            context.cancel()  # the worker that waits for the message wakes up
        self.ended_total += len(late)

    def stop(self) -> None:
        """Looks no more; the server ends its calls itself."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and not self._stopped:  # two threads may both have found it idle
            self._timer = self._reactor.callLater(SWEEP_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._armed = False
        self.sweep()
        if self._ends:
            self._armed = True
            self._arm()
