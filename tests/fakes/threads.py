"""``InlineThreads``: the Threads seam without threads, verified against ``ThreadLanes`` by one contract."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from daemon.aio.threads import LANE_BACKLOG, LaneBusy, LaneTimeout


class _Call:
    def __init__(self, lane: str, work: Callable[[], Any]) -> None:
        self.lane = lane
        self.work = work
        self.settled = False
        self.overdue = False
        self.timer: Any = None
        self.deferred: Deferred[Any] = Deferred(lambda _deferred: self.settle(Failure(CancelledError())))

    def settle(self, result: Any) -> None:
        if self.settled:
            return
        self.settled = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if isinstance(result, Failure):
            self.deferred.errback(result)
        else:
            self.deferred.callback(result)


class InlineThreads:
    """Runs each call within ``run``, unless its lane was told to hang.

    Args:
        clock: keeps the deadlines; without one there are none.

    Attributes:
        calls: the lane of every call accepted, in order.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.calls: list[str] = []
        self._clock = clock
        self._hanging: set[str] = set()
        self._waiting: dict[str, deque[_Call]] = {}
        self._stopping = False
        self._drained: list[Deferred[None]] = []

    def run(self, lane: str, deadline_s: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See :class:`daemon.aio.threads.Threads`."""
        if self._stopping:
            return fail(LaneBusy(f"{lane}: the daemon is stopping"))
        waiting = self._waiting.setdefault(lane, deque())
        # The first one is on the thread, as it were; the others wait for it.
        if any(earlier.overdue for earlier in waiting) or len(waiting) > LANE_BACKLOG:
            return fail(LaneBusy(f"{lane}: an earlier call has not come back"))
        self.calls.append(lane)
        job = _Call(lane, lambda: call(*args, **kwargs))
        if lane not in self._hanging:
            self._perform(job)
            return job.deferred
        if deadline_s > 0 and self._clock is not None:
            job.timer = self._clock.callLater(deadline_s, self._overdue, job, deadline_s)
        waiting.append(job)
        return job.deferred

    def hang(self, lane: str) -> None:
        """From now on no call of the lane comes back."""
        self._hanging.add(lane)

    def release(self, lane: str) -> None:
        """The hanging call comes back, and those behind it have their turn."""
        self._hanging.discard(lane)
        waiting = self._waiting.get(lane, deque())
        begun = True
        while waiting:
            job = waiting[0]
            if begun or not job.settled:
                self._perform(job)
            waiting.popleft()
            begun = False
        if not any(self._waiting.values()):
            drained, self._drained = self._drained, []
            for waiter in drained:
                waiter.callback(None)

    @property
    def stuck(self) -> tuple[str, ...]:
        """The lanes that are held by an overdue call."""
        return tuple(lane for lane, jobs in self._waiting.items() if any(job.overdue for job in jobs))

    async def stop(self, grace_s: float) -> tuple[str, ...]:
        """See :meth:`daemon.aio.threads.ThreadLanes.stop`."""
        self._stopping = True
        if any(self._waiting.values()):
            assert self._clock is not None, "waiting needs a clock"
            waiter: Deferred[None] = Deferred()
            self._drained.append(waiter)
            timer = self._clock.callLater(grace_s, self._give_up, waiter)
            await waiter
            if timer.active():
                timer.cancel()
        return tuple(lane for lane, jobs in self._waiting.items() if jobs)

    def _give_up(self, waiter: Deferred[None]) -> None:
        if waiter in self._drained:
            self._drained.remove(waiter)
            waiter.callback(None)

    def _perform(self, job: _Call) -> None:
        try:
            result = job.work()
        except BaseException:  # it travels to the caller as a Failure
            result = Failure()
        job.settle(result)

    def _overdue(self, job: _Call, deadline_s: float) -> None:
        job.overdue = True
        job.settle(Failure(LaneTimeout(f"{job.lane}: no answer within {deadline_s:g} s")))
