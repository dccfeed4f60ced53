"""Who is in an agent's session, remembered for a while: one look at /proc serves all agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads

log = Logger()

LANE = "sessions"
DEADLINE_S = 20.0

Scan = Callable[[], Mapping[int, tuple[int, ...]]]


class SessionIndex:
    """Sessions and their members as of the last look.

    Args:
        clock: ages.
        threads: a look at a host with thousands of processes takes longer than the loop may stand still.
        scan: looks; :func:`daemon.procfs.sessions.SessionScan`.
    """

    def __init__(self, clock: Clock, threads: Threads, scan: Scan) -> None:
        self._clock = clock
        self._threads = threads
        self._scan = scan
        self._sessions: Mapping[int, tuple[int, ...]] = {}
        self._looked_at = float("-inf")
        self._under_way: Deferred[None] | None = None
        self._complained = False

    def members(self, session: int, max_age_s: float) -> tuple[int, ...]:
        """Who is known to be in a session now: at least its leader.

        A look older than ``max_age_s`` is renewed in the background, for the next who asks.
        """
        if self._clock.seconds() - self._looked_at > max_age_s and self._under_way is None:
            self.refresh()
        return self._sessions.get(session) or (session,)

    def fresh(self, max_age_s: float, patience_s: float) -> Deferred[None]:
        """Fires when the last look is at most ``max_age_s`` old, or after ``patience_s``; never fails."""
        if self._clock.seconds() - self._looked_at <= max_age_s:
            return succeed(None)
        clock = cast(Any, self._clock)  # addTimeout asks for zope's IReactorTime
        return self.refresh().addTimeout(patience_s, clock, onTimeoutCancel=lambda _failure, _after: None)

    def refresh(self) -> Deferred[None]:
        """Looks again; fires when that is done, also when it failed (logged once)."""
        waiter: Deferred[None] = Deferred()
        if self._under_way is None:
            self._under_way = self._threads.run(LANE, DEADLINE_S, self._scan).addCallbacks(
                self._found, self._failed
            )
        under_way = self._under_way
        under_way.addCallback(lambda _done: waiter.callback(None))
        if under_way.called:  # threads that answer at once
            self._under_way = None
        return waiter

    def _found(self, sessions: Mapping[int, tuple[int, ...]]) -> None:
        self._under_way = None
        self._sessions = sessions
        self._looked_at = self._clock.seconds()
        self._complained = False

    def _failed(self, failure: Failure) -> None:
        self._under_way = None
        self._looked_at = self._clock.seconds()  # so that a /proc that hangs is not asked at every sample
        if not self._complained:
            self._complained = True
            if failure.check(LaneBusy, LaneTimeout, OSError):
                log.warn(
                    "who is in which session is not known anew ({error}): what agents use is that "
                    "of the processes known so far; a process that hangs in the kernel holds /proc up",
                    error=failure.getErrorMessage(),
                )
            else:
                log.failure("a look at sessions", failure=failure)
