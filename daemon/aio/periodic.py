"""Periodic work that does not die of its first exception.

A bare ``LoopingCall`` stops for good when its function raises. Everything periodic in the daemon
goes through :func:`periodic`: failures are logged and counted, overlap is skipped, and ``stop``
waits for a round that is under way.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock, DelayedCall

log = Logger()


class Periodic:
    """One function on one timer; made by :func:`periodic`.

    Attributes:
        failures_total: rounds that raised since the start.
        rounds_total: rounds begun since the start.
    """

    def __init__(
        self, clock: Clock, interval_s: float, work: Callable[[], Any], name: str
    ) -> None:
        self.name = name
        self.interval_s = interval_s
        self.failures_total = 0
        self.rounds_total = 0
        self._clock = clock
        self._work = work
        self._loop = LoopingCall(self._round)
        self._loop.clock = cast(Any, clock)
        self._phase: DelayedCall | None = None
        self._under_way: Deferred[None] | None = None
        self._waiters: list[Deferred[None]] = []

    @property
    def running(self) -> bool:
        """Whether it is started and not stopped."""
        return self._phase is not None or self._loop.running

    def start(self, *, phase_s: float = 0.0) -> None:
        """Begins; the first round comes after ``phase_s`` seconds (0: within this call)."""
        if phase_s > 0:
            self._phase = self._clock.callLater(phase_s, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._phase = None
        # LoopingCall skips the beats it missed while a round's Deferred was pending: no overlap.
        self._loop.start(self.interval_s, now=True).addErrback(self._broken)

    def _round(self) -> Deferred[None]:
        self.rounds_total += 1
        self._under_way = done = maybeDeferred(self._work)
        done.addErrback(self._failed)
        done.addBoth(self._rest)
        return done

    def _failed(self, failure: Failure) -> None:
        self.failures_total += 1
        log.failure("{name}: a round failed; the next one comes in {interval_s} s",
                    failure=failure, name=self.name, interval_s=self.interval_s)

    def _rest(self, _result: object) -> None:
        self._under_way = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _broken(self, failure: Failure) -> None:
        log.failure("{name}: the timer itself broke", failure=failure, name=self.name)

    def stop(self) -> Deferred[None]:
        """Ends it; fires when a round under way has ended too."""
        if self._phase is not None:
            self._phase.cancel()
            self._phase = None
        if self._loop.running:
            self._loop.stop()
        if self._under_way is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter


def periodic(
    clock: Clock,
    interval_s: float,
    work: Callable[[], Any],
    *,
    name: str,
    phase_s: float = 0.0,
    jitter: float = 0.0,
    random_unit: Callable[[], float] = random.random,
) -> Periodic:
    """Runs ``work`` every ``interval_s`` seconds from now on.

    Args:
        clock: the reactor or a test's Clock.
        interval_s: seconds between beginnings, > 0.
        work: plain, or returning a Deferred or coroutine result wrapped in one.
        name: for the log when a round fails.
        phase_s: seconds until the first round.
        jitter: 0..1; adds up to that part of the interval to the phase, so that many hosts spread.
        random_unit: a source of numbers in [0, 1).

    Returns:
        The running timer; the caller owns it and awaits its ``stop()``.
    """
    timer = Periodic(clock, interval_s, work, name)
    timer.start(phase_s=phase_s + jitter * interval_s * random_unit())
    return timer
