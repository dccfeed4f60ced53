"""A deadline that holds whatever the work says to it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock

log = Logger()

T = TypeVar("T")


class Overdue(Exception):
    """The time for something is over."""


def by_deadline(clock: Clock, timeout_s: float, work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Does ``work``, for ``timeout_s`` seconds at most; then it is cancelled, as when the caller leaves.

    Unlike ``Deferred.addTimeout`` it does not depend on what the work says to that, or whether it says
    anything: the deadline holds, and a caller that leaves hears CancelledError.

    Returns:
        fires with the result; fails with Overdue, or as the work does.
    """
    over = False

    def leave(_answer: Deferred[T]) -> None:
        nonlocal over
        over = True
        timer.cancel()
        doing.cancel()

    def overdue() -> None:
        nonlocal over
        over = True
        answer.errback(Overdue(f"not done within {timeout_s:g} s"))
        doing.cancel()

    def done(result: T | Failure) -> None:
        if not over:
            timer.cancel()
            answer.callback(cast(T, result))  # a Failure goes its own way
        elif isinstance(result, Failure) and not result.check(CancelledError, ConnectingCancelledError):
            log.debug("failed when nobody waited any more: {error}", error=result.getErrorMessage())

    answer: Deferred[T] = Deferred(leave)
    # First the work: its own deadlines of that length fire first then, and say more.
    doing = Deferred.fromCoroutine(work)
    timer = clock.callLater(timeout_s, overdue)
    doing.addBoth(done)
    return answer
