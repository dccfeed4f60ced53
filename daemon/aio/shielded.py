"""Waiting for work that goes on when the waiter leaves."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

T = TypeVar("T")

log = Logger()


def shielded(work: Deferred[T]) -> Deferred[T]:
    """A Deferred that fires as ``work`` does; cancelling it leaves the work alone.

    A failure nobody waits for any more is for developers: whoever began the work has given it up.
    """
    waiter: Deferred[T] = Deferred()

    def done(result: T | Failure) -> None:
        if not waiter.called:
            waiter.callback(result)  # a Failure runs the errbacks
        elif isinstance(result, Failure):
            log.debug("work nobody waits for failed: {error}", error=result.getErrorMessage())

    work.addBoth(done)
    return waiter
