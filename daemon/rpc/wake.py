"""Waiting for news, or until some time has passed: what a loop that serves both does between its rounds."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from daemon.aio.reactor import Clock, DelayedCall


class Wake:
    """News for one waiting loop; news that comes while it works is found at its next wait.

    The loop goes on a turn of the reactor later, never within :meth:`set`: whoever brings the news may be
    what the loop is about to cancel.

    Args:
        clock: keeps the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._news = False
        self._waiter: Deferred[bool] | None = None
        self._timer: DelayedCall | None = None

    def set(self) -> None:
        """There is news."""
        if not self._news:
            self._news = True
            self._schedule(0.0)

    def wait(self, seconds: float | None = None) -> Deferred[bool]:
        """Fires at news, or after that many seconds (None: never); cancelling it takes the timer back.

        Returns:
            whether there was news.
        """
        waiter: Deferred[bool] = Deferred(lambda _cancelled: self._forget())
        self._waiter = waiter
        self._schedule(0.0 if self._news else seconds)
        return waiter

    def _schedule(self, seconds: float | None) -> None:
        if self._waiter is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._end) if seconds is not None else None

    def _end(self) -> None:
        self._timer = None
        waiter, self._waiter = self._waiter, None
        news, self._news = self._news, False
        if waiter is not None:
            waiter.callback(news)

    def _forget(self) -> None:
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
